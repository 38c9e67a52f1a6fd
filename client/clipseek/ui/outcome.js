// What is to be said before the page's server knows of it.
document.addEventListener("outcome", (event) => {
  props.value = event.detail;
});
