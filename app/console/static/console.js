// What the pages cannot do without a script: copy a secret. Everything else works without this file.
"use strict";

async function copy(button) {
  const field = document.getElementById(button.dataset.copy);
  const status = document.getElementById("copied");
  field.select();
  try {
    await navigator.clipboard.writeText(field.value);
    status.textContent = "Copied.";
  } catch {
    status.textContent = "The browser does not let this page copy; the text is selected, copy it yourself.";
  }
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", () => copy(button));
}
