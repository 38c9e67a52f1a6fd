const dialog = () => element.querySelector("dialog");

watch("value", () => {
  if (!dialog() || dialog().open) return;
  dialog().querySelector("figure").classList.toggle("unshowable", !dialog().querySelector("figure img"));
  dialog().showModal();
});
element.addEventListener("click", (event) => {
  const clicked = event.target.closest("button");
  const collection = dialog()?.dataset.collection;
  const sure = dialog()?.querySelector(".sure");
  // The dialog's content fills it: a click on the dialog itself is one beside it.
  if (event.target === dialog() || clicked?.hasAttribute("data-close")) dialog().close();
  if (clicked?.hasAttribute("data-ask")) {
    sure.hidden = false;
    sure.querySelector("[data-keep]").focus();
  }
  if (clicked?.hasAttribute("data-keep")) {
    sure.hidden = true;
    dialog().querySelector("[data-ask]").focus();
  }
  if (clicked?.dataset.more) {
    dialog().close();
    trigger("more", { id: clicked.dataset.more, collection });
    window.scrollTo({ top: 0, behavior: "smooth" });
  }
  if (clicked?.dataset.delete) {
    dialog().close();
    trigger("remove", { id: clicked.dataset.delete, name: clicked.dataset.name, collection });
  }
});
// Errors of pictures do not bubble.
element.addEventListener("error", (event) => event.target.closest("figure")?.classList.add("unshowable"), true);
