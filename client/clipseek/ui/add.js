// The pictures to add. One by one: one that does not arrive does not take the others with it.
const chooser = () => element.querySelector("input");
const busy = () => !chooser() || chooser().disabled;
// Who leaves now leaves half of them behind.
document.addEventListener("leaving", (event) => {
  if (busy()) event.preventDefault();
});

const take = async (files) => {
  if (busy()) return;
  const { sending, lost, drop, later } = element.querySelector(".drop").dataset;
  const hint = (words) => (element.querySelector(".drop span").textContent = words);
  const say = (detail) => document.dispatchEvent(new CustomEvent("outcome", { detail }));
  const sent = [];
  chooser().disabled = true;
  hint(later);
  for (const file of files) {
    say(sending.replace("{done}", sent.length).replace("{total}", files.length));
    sent.push(await send(file));
  }
  // When they are stored the page gives a new chooser; until then there is none.
  if (sent.some(({ path }) => path)) return trigger("arrive", { files: sent });
  // Where nothing arrives nobody may be there to say so.
  chooser().disabled = false;
  hint(drop);
  say(lost);
};
