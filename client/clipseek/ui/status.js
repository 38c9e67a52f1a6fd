// What is said above the screen is not seen, wherever somebody clicked.
watch("value", () => {
  if (element.getBoundingClientRect().top < 0) element.scrollIntoView({ block: "start", behavior: "smooth" });
});
