// The picture to search with: chosen, dropped or pasted anywhere while the search is in sight.
const send = async (file) => {
  element.classList.add("busy");
  let path = "";
  try {
    ({ path } = await upload(file));
  } catch {
    // A proxy that finds it too large, or no connection: without a path the page says that it did not arrive.
  }
  element.classList.remove("busy");
  trigger("attach", { path, name: file.name });
};
const inSight = () => element.offsetParent !== null && !document.querySelector("dialog[open]");
// Whatever it is: the server says what is no picture, and browsers do not know all kinds.
const dropped = (transfer) => transfer?.files?.[0];

element.addEventListener("change", (event) => {
  const file = event.target.files?.[0];
  if (!file) return;
  event.target.value = ""; // or the same one could not be chosen again
  send(file);
});
element.addEventListener("click", (event) => {
  if (event.target.closest("[data-detach]")) trigger("detach", {});
});
document.addEventListener("paste", (event) => {
  const file = dropped(event.clipboardData);
  if (!file || !inSight()) return;
  event.preventDefault();
  send(file);
});
document.addEventListener("dragover", (event) => {
  if (!inSight() || !event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  element.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) element.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  element.classList.remove("over");
  const file = dropped(event.dataTransfer);
  if (!inSight() || !event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  if (file) send(file);
});
