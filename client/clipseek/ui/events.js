// Gradio's script (6.31) opens a stream of answers when an event has been taken and none is open, and closes it when the
// server says that nothing is pending any more. Of an event that is taken between the server's saying so and the script's
// reading it the answer would come when another event opens a stream, if ever. So the script is told that an event has
// been taken only when the stream that is open has something of it, or is open no more.
(() => {
  const real = window.fetch.bind(window);
  let open = null;

  class Stream {
    events = new Set();
    waiting = [];
    said = false;

    /** Let those look again who wait for something of the stream. */
    changed() {
      for (const look of this.waiting.splice(0)) look();
    }

    end() {
      if (open === this) open = null;
      this.changed();
    }

    async read(body) {
      const reader = body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = "", part = await reader.read(); !part.done; part = await reader.read()) {
        const lines = (text + part.value).split("\n");
        text = lines.pop();
        for (const line of lines) if (line.startsWith("data:")) this.take(JSON.parse(line.slice(5)));
        this.changed();
      }
      // Otherwise the script ends it, when it has read as much.
      if (!this.said) this.end();
    }

    take({ msg, event_id }) {
      this.events.add(event_id);
      this.said ||= msg === "close_stream";
    }
  }

  function follow(answer, signal) {
    const stream = (open = new Stream());
    const [given, read] = answer.body.tee();
    signal?.addEventListener("abort", () => stream.end());
    stream.read(read).catch(() => stream.end());
    return new Response(given, answer);
  }

  async function taken(answer) {
    const { event_id } = await answer.clone().json();
    while (event_id && open && !open.events.has(event_id)) await new Promise((look) => open.waiting.push(look));
    return answer;
  }

  window.fetch = async (request, options) => {
    const { pathname } = new URL(request.url ?? request, location);
    const answer = await real(request, options);
    if (answer.ok && pathname.endsWith("/queue/data")) return follow(answer, request.signal ?? options?.signal);
    if (answer.ok && pathname.endsWith("/queue/join")) return taken(answer);
    return answer;
  };
})();
