// The pictures to add. One by one: one that does not arrive does not take the others with it.
const chooser = () => element.querySelector("input");
const busy = () => !chooser() || chooser().disabled;
// Who leaves now leaves half of them behind.
addEventListener("beforeunload", (event) => {
  if (busy()) event.preventDefault();
});

const take = async (files) => {
  if (busy()) return;
  const { sending, lost } = element.querySelector(".drop").dataset;
  const say = (detail) => document.dispatchEvent(new CustomEvent("outcome", { detail }));
  const sent = [];
  chooser().disabled = true;
  for (const file of files) {
    say(sending.replace("{done}", sent.length).replace("{total}", files.length));
    sent.push(await send(file));
  }
  chooser().disabled = false;
  // Where nothing arrives nobody may be there to say so.
  if (sent.some(({ path }) => path)) trigger("arrive", { files: sent });
  else say(lost);
};
