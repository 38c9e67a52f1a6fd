// Files that are chosen, or dropped anywhere while this is in sight: `take` gets them. Whatever they are: the server says
// what is no picture, and browsers do not know all kinds.
const inSight = () => element.offsetParent !== null && !document.querySelector("dialog[open]");
const hasFiles = (event) => inSight() && event.dataTransfer?.types.includes("Files");

// A proxy that finds it too large, or no connection: without a path the page says that it did not arrive. Gradio's own
// "upload" says so as well, in English.
const send = async (file) => {
  const body = new FormData();
  body.append("files", file);
  let path = "";
  try {
    const answer = await fetch("gradio_api/upload", { method: "POST", body });
    if (answer.ok) [path] = await answer.json();
  } catch {}
  return { path, name: file.name };
};

element.addEventListener("change", (event) => {
  const files = [...(event.target.files ?? [])];
  if (!files.length) return;
  event.target.value = ""; // or the same ones could not be chosen again
  take(files);
});
document.addEventListener("dragover", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  element.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) element.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  element.classList.remove("over");
  if (!hasFiles(event)) return;
  event.preventDefault();
  if (event.dataTransfer.files.length) take([...event.dataTransfer.files]);
});
