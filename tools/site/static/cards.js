// What all cards share; the cards themselves stand in a file for each page.
const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;

tippy.setDefaultProps({
  appendTo: () => document.body,
  aria: { content: "describedby", expanded: false },
  delay: [250, 60],
  duration: still ? 0 : [120, 80],
  moveTransition: "",
  theme: "card",
  touch: ["hold", 400],
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") tippy.hideAll();
});
