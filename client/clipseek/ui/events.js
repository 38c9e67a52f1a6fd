// Gradio's script (6.31) opens a stream of answers when an event has been taken and none is open, and closes it when the
// server says that nothing is pending any more. Of an event that is taken between the server's saying so and the script's
// reading it the answer would come when another event opens a stream, if ever. So the script is told that an event has
// been taken only when a stream had something of it, or none is open any more.
(() => {
  const real = window.fetch.bind(window);
  const heard = new Set(); // the events that a stream had something of
  let open = null;

  class Stream {
    waiting = [];
    said = false;
    lost = false;

    /** Let those look again who wait for something of the stream. */
    changed() {
      for (const look of this.waiting.splice(0)) look();
    }

    end() {
      if (open === this) open = null;
      this.changed();
    }

    lose() {
      this.lost = open === this;
      this.end();
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
      if (!this.said) this.lose();
    }

    take({ msg, event_id }) {
      heard.add(event_id);
      this.said ||= msg === "close_stream";
    }
  }

  async function follow(request, options) {
    // The script takes it for open from now on.
    const stream = (open = new Stream());
    (request.signal ?? options?.signal)?.addEventListener("abort", () => stream.end());
    try {
      const answer = await real(request, options);
      if (!answer.ok) throw answer;
      const [given, read] = answer.body.tee();
      stream.read(read).catch(() => stream.lose());
      return new Response(given, answer);
    } catch (failure) {
      stream.lose();
      if (failure instanceof Response) return failure;
      throw failure;
    }
  }

  async function taken(answer) {
    const { event_id } = await answer
      .clone()
      .json()
      .catch(() => ({}));
    while (event_id && open && !heard.has(event_id)) {
      const stream = open;
      await new Promise((look) => stream.waiting.push(look));
      // The script has been told of it, and opens no other one.
      if (stream.lost) throw new TypeError("the stream of answers was lost");
    }
    return answer;
  }

  window.fetch = async (request, options) => {
    const { pathname } = new URL(request.url ?? request, location);
    if (pathname.endsWith("/queue/data")) return follow(request, options);
    const answer = await real(request, options);
    return pathname.endsWith("/queue/join") && answer.ok ? taken(answer) : answer;
  };
})();
