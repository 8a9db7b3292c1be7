"use strict";
const drop = document.getElementById("drop");
const chosen = document.getElementById("photo");
const state = document.getElementById("state");
const shown = document.getElementById("shown");
const mostBytes = Number(drop.dataset.mostBytes);
let asking = null; // the photo that is looked at; a newer one takes its place

async function look(photo) {
  if (!photo) return;
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  shown.replaceChildren();
  if (photo.size > mostBytes) {
    say(`${photo.name} is ${Math.round(photo.size / 1e6)} MB; the limit is ${mostBytes / 1e6} MB.`);
    return;
  }
  say(`Analysing ${photo.name} …`, true);
  try {
    const answer = await fetch("look", {
      method: "POST",
      body: photo,
      headers: { "Content-Type": "application/octet-stream" },
      signal,
    });
    const text = await answer.text();
    if (signal.aborted) return;
    if (answer.ok) {
      say(photo.name);
      shown.innerHTML = text; // made by the page's own template, which escapes what is not its own
    } else if (answer.status >= 500 && answer.status !== 503) {
      say("Something went wrong with this photo; the terminal that runs fra app says what.");
    } else {
      say(text);
    }
  } catch {
    if (!signal.aborted) say("No answer: the file cannot be read, or fra app has stopped.");
  }
}

function say(words, busy = false) {
  state.textContent = words;
  state.classList.toggle("busy", busy);
}

chosen.addEventListener("change", () => {
  look(chosen.files[0]);
  chosen.value = ""; // the same photo may be chosen again
});
// Wherever it is dropped: beside the frame, a browser would leave the page and open the photo.
addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
addEventListener("dragleave", (event) => event.relatedTarget || drop.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  look(event.dataTransfer.files[0]);
});
