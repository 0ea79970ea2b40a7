// Wide tables scroll; who has no mouse must be able to move into them.  The search gets a name.
function reachable() {
  document.querySelector(".md-search:not([aria-label])")?.setAttribute("aria-label", "Search");
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) {
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", "Table");
  }
}
new MutationObserver(reachable).observe(document.documentElement, { childList: true, subtree: true });
