// Search on pages that are opened from the disk: browsers start no Worker there, so its script runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      const inside = frame.contentWindow
      inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      inside.importScripts = (...urls) => Promise.all(urls.map(load))
      const loaded = load(url)
      this.postMessage = data => loaded.then(() => inside.dispatchEvent(new inside.MessageEvent("message", { data })))

      function load(src) {
        return new Promise((resolve, reject) => {
          const script = inside.document.createElement("script")
          Object.assign(script, { src, onload: resolve, onerror: reject })
          inside.document.body.append(script)
        })
      }
    }
    terminate() {}
  }
}
