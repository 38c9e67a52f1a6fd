// Gradio's script (6.31) opens a stream of answers when an event has been taken and none is open, and closes it when the
// server says that nothing is pending any more. Two things go wrong there:
//
// - Of an event that is taken between the server's saying so and the script's reading it the answer would come when another
//   event opens a stream, if ever. So the script is told that an event has been taken only when a stream had something of
//   it, or none is open any more.
// - A stream that breaks off stays open for the script, and nothing is answered ever after. So the script is told of each
//   that is lost as it tells itself of some: it says that the connection was lost, and loads the page again.
(() => {
  const real = window.fetch.bind(window);
  const LOST = [{ msg: "broken_connection", message: "Connection errored out." }, { msg: "close_stream" }]
    .map((message) => `\n\ndata: ${JSON.stringify(message)}\n\n`)
    .join("");
  let open = null;
  let lost = false;

  class Stream {
    heard = new Set(); // the events that it had something of
    waiting = [];
    closed = false; // by the server, or by the script
    text = "";
    decoder = new TextDecoder();

    /** Let those look again who wait for something of the stream. */
    changed() {
      for (const look of this.waiting.splice(0)) look();
    }

    end() {
      this.closed = true;
      if (open === this) open = null;
      this.changed();
    }

    hear(bytes) {
      const lines = (this.text + this.decoder.decode(bytes, { stream: true })).split("\n");
      this.text = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) this.take(JSON.parse(line.slice(5)));
      this.changed();
    }

    take({ msg, event_id }) {
      this.heard.add(event_id);
      this.closed ||= msg === "close_stream";
    }

    /** What the script reads: it ends the stream when it reads that it is closed. */
    body(reader) {
      return new ReadableStream({
        pull: async (script) => {
          try {
            const { value } = await reader.read();
            if (!value) throw new Error("it has ended");
            this.hear(value);
            script.enqueue(value);
          } catch {
            if (!this.closed) {
              lost = true;
              script.enqueue(new TextEncoder().encode(LOST));
            }
            script.close();
          }
        },
        cancel: (reason) => reader?.cancel(reason),
      });
    }
  }

  // Gradio loads the page again once only, so nobody is asked then.
  addEventListener("beforeunload", (event) => {
    if (!lost && !document.dispatchEvent(new Event("leaving", { cancelable: true }))) event.preventDefault();
  });
  // It also ends its streams before anybody is asked, and who stays would never be answered; who leaves ends them anyway.
  const abort = AbortController.prototype.abort;
  AbortController.prototype.abort = function (...reason) {
    if (window.event?.type !== "beforeunload") abort.apply(this, reason);
  };

  async function follow(request, options) {
    // The script takes it for open from now on.
    const stream = (open = new Stream());
    (request.signal ?? options?.signal)?.addEventListener("abort", () => stream.end());
    const answer = await real(request, options).catch(() => null);
    return new Response(stream.body(answer?.ok ? answer.body.getReader() : null));
  }

  async function taken(answer) {
    const { event_id } = await answer
      .clone()
      .json()
      .catch(() => ({}));
    while (event_id && open && !open.heard.has(event_id)) await new Promise((look) => open.waiting.push(look));
    return answer;
  }

  window.fetch = async (request, options) => {
    const { pathname } = new URL(request.url ?? request, location);
    if (pathname.endsWith("/queue/data")) return follow(request, options);
    const answer = await real(request, options);
    return pathname.endsWith("/queue/join") && answer.ok ? taken(answer) : answer;
  };
})();
