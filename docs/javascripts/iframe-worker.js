// Search runs in a worker, which browsers do not start for a page opened from a folder; a frame does the same.
if (location.protocol === "file:") {
  const prelude =
    'function postMessage(data) { parent.postMessage(data, "*") }' +
    "function importScripts(...urls) { return urls.reduce((before, url) => before.then(() => new Promise(done => {" +
    ' const script = document.createElement("script"); script.src = url; script.onload = done;' +
    " document.body.append(script) })), Promise.resolve()) }";

  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.title = "Search";
      this.ready = new Promise((done) => frame.addEventListener("load", done));
      document.body.append(frame);
      this.inside = frame.contentWindow;
      addEventListener("message", (event) => {
        if (event.source === this.inside) {
          this.dispatchEvent(new MessageEvent("message", { data: event.data }));
        }
      });
      const page = frame.contentDocument;
      page.open();
      page.write(`<body><script>${prelude}</script><script src="${new URL(url, location)}"></script></body>`);
      page.close();
    }

    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {}
  };
}
