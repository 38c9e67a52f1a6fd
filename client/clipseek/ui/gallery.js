element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.show) trigger("show", { id: button.dataset.show });
  if (button?.dataset.more) {
    trigger("more", { id: button.dataset.more });
    window.scrollTo({ top: 0, behavior: "smooth" });
  }
});
