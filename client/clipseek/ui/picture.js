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
  const files = event.clipboardData?.files;
  if (!files?.length || !inSight()) return;
  event.preventDefault();
  take(files);
});
