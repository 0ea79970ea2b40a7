"""Sessions between two nodes over an MQTT 5 broker, with paho-mqtt; needs a broker such as mosquitto."""
