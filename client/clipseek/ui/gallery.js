element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  // What is asked for next may be of another collection, while the pictures of this one are still in sight.
  const collection = button?.closest("[data-collection]")?.dataset.collection;
  if (button?.dataset.show) trigger("show", { id: button.dataset.show, collection });
  if (button?.dataset.more) {
    trigger("more", { id: button.dataset.more, collection });
    // The button that was clicked goes with the pictures that were there.
    element.tabIndex = -1;
    element.focus({ preventScroll: true });
    window.scrollTo({ top: 0, behavior: "smooth" });
  }
});
