// The picture to search with; it can be pasted, too.
const take = async ([file]) => {
  element.classList.add("busy");
  const sent = await send(file);
  element.classList.remove("busy");
  trigger("attach", sent);
};

element.addEventListener("click", (event) => {
  if (event.target.closest("[data-detach]")) trigger("detach", {});
});
document.addEventListener("paste", (event) => {
  const { files, types } = event.clipboardData ?? {};
  if (!files?.length || !inSight()) return;
  // Office programs put a picture of what is copied beside its text.
  if (types.includes("text/plain") && event.target.closest?.("input, textarea")) return;
  event.preventDefault();
  take(files);
});
