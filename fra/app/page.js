"use strict";
const drop = document.getElementById("drop");
const chosen = document.getElementById("photo");
const state = document.getElementById("state");
const shown = document.getElementById("shown");
const clear = document.getElementById("clear");
const mostBytes = Number(drop.dataset.mostBytes);
const waiting = []; // photos and their places on the page, in the order in which they are looked at
let working = false;

// --- photos, one after the other

function take(files) {
  const places = [...files].map(place);
  shown.prepend(...places.map(({ article }) => article));
  waiting.push(...places);
  clear.hidden = !shown.children.length;
  work();
}

function place(photo) {
  const article = element("article", "look");
  const header = element("header");
  const remove = element("button", "", "Remove");
  const going = new AbortController();
  remove.addEventListener("click", () => {
    going.abort();
    article.remove();
    clear.hidden = !shown.children.length;
  });
  header.append(element("h2", "", photo.name), remove);
  article.append(header, element("div", "answer"));
  return { photo, article, signal: going.signal };
}

async function work() {
  if (working) return;
  working = true;
  let done = 0;
  while (waiting.length) {
    const next = waiting.shift();
    if (next.signal.aborted) continue;
    say(`Analysing ${next.photo.name}${waiting.length ? `, ${waiting.length} more waiting` : ""} …`, true);
    await look(next);
    done += 1;
  }
  working = false;
  say(done === 1 ? "1 photo analysed." : `${done} photos analysed.`);
}

async function look({ photo, article, signal }) {
  const answer = article.querySelector(".answer");
  if (photo.size > mostBytes) {
    answer.textContent = `The file has ${Math.round(photo.size / 1e6)} MB; the limit is ${mostBytes / 1e6} MB.`;
    return;
  }
  try {
    const [status, text] = await ask(photo, signal);
    if (status === 200) {
      answer.innerHTML = text; // made by the page's own template, which escapes what is not its own
      bringToLife(article, photo.name);
    } else {
      answer.textContent =
        status >= 500 && status !== 503
          ? "Something went wrong with this photo; the terminal that runs fra app says what."
          : text;
    }
  } catch {
    if (!signal.aborted) answer.textContent = "No answer: the file cannot be read, or fra app has stopped.";
  }
}

async function ask(photo, signal) {
  for (let tries = 1; ; tries += 1) {
    const answer = await fetch("look", {
      method: "POST",
      body: photo,
      headers: { "Content-Type": "application/octet-stream" },
      signal,
    });
    // Other tabs may have filled the room for photos for a while.
    if (answer.status !== 503 || tries === 12) return [answer.status, await answer.text()];
    await new Promise((resolve) => setTimeout(resolve, 5000));
  }
}

function say(words, busy = false) {
  state.textContent = words;
  state.classList.toggle("busy", busy);
}

function element(name, kind = "", text = "") {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text) made.textContent = text;
  return made;
}

// --- an answer

function bringToLife(article, name) {
  const boxes = [...article.querySelectorAll(".box")];
  boxes.forEach((box, face) => box.addEventListener("click", () => choose(article, face)));
  article.querySelector(".previous")?.addEventListener("click", () => turn(article, -1));
  article.querySelector(".next")?.addEventListener("click", () => turn(article, 1));
  if (boxes.length) choose(article, 0);
  const region = article.querySelector(".region");
  const opacity = article.querySelector(".opacity");
  region?.addEventListener("input", () => showRegion(article, Number(region.value)));
  opacity?.addEventListener("input", () => {
    for (const strip of article.querySelectorAll(".strip")) strip.style.opacity = opacity.value / 100;
  });
  for (const button of article.querySelectorAll(".save button")) {
    button.addEventListener("click", () => save(article, name, button.dataset.as));
  }
}

function choose(article, face) {
  article.dataset.face = face;
  article.querySelectorAll(".face").forEach((section, place) => (section.hidden = place !== face));
  article.querySelectorAll(".box").forEach((box, place) => box.classList.toggle("chosen", place === face));
  const output = article.querySelector(".choose output");
  if (output) output.textContent = face + 1;
}

function turn(article, by) {
  const faces = article.querySelectorAll(".face").length;
  choose(article, (Number(article.dataset.face) + by + faces) % faces);
}

function showRegion(article, place) {
  const captions = JSON.parse(article.querySelector(".controls").dataset.captions);
  for (const strip of article.querySelectorAll(".strip")) strip.style.left = `${-100 * place}%`;
  for (const caption of article.querySelectorAll(".caption")) caption.textContent = captions[place];
}

document.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!by || event.target.matches("input")) return;
  const article = event.target.closest(".look") ?? shown.querySelector(".look[data-face]");
  if (article?.dataset.face === undefined) return;
  turn(article, by);
  event.preventDefault();
});

// --- what is kept, on request

function save(article, name, kind) {
  const stem = name.replace(/\.[^.]*$/, "");
  const answers = JSON.parse(article.querySelector(".save").dataset.answers);
  const made = {
    jpg: () => article.querySelector(".photo").src,
    json: () => URL.createObjectURL(new Blob([JSON.stringify({ photo: name, faces: answers }, null, 1)])),
    csv: () => URL.createObjectURL(new Blob([table(name, answers)])),
  };
  const link = element("a");
  link.href = made[kind]();
  link.download = `${stem}.faces.${kind}`;
  link.click();
  if (kind !== "jpg") setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function table(name, faces) {
  const rows = faces.map((face, place) => ({
    photo: name,
    face: place + 1,
    score: face.score,
    ...Object.fromEntries(["x1", "y1", "x2", "y2"].map((side, k) => [side, face.box[k]])),
    ...Object.assign({}, ...Object.entries(face.answers).map(([task, answer]) => cells(task, answer))),
  }));
  const columns = [...new Set(rows.flatMap(Object.keys))];
  const quoted = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
  return [columns, ...rows.map((row) => columns.map((column) => row[column]))]
    .map((row) => row.map(quoted).join(",") + "\r\n")
    .join("");
}

function cells(task, answer) {
  const found = {};
  for (const [asked, said] of Object.entries(answer)) {
    if (typeof said === "string") found[`${task} ${asked}`] = said;
    else if (asked === "attributes") found[`${task} attributes`] = said.join("; ");
    else if (asked === "landmarks") said.forEach(([x, y], k) => Object.assign(found, { [`${task} x${k}`]: x, [`${task} y${k}`]: y }));
    else if (asked === "confidence") said.forEach((value, k) => (found[`${task} confidence${k}`] = value));
    else for (const [name, value] of Object.entries(said)) found[`${task} ${name}`] = value;
  }
  return found;
}

// --- how photos come in

chosen.addEventListener("change", () => {
  take(chosen.files);
  chosen.value = ""; // the same photo may be chosen again
});
clear.addEventListener("click", () => {
  for (const button of [...shown.querySelectorAll("header button")]) button.click();
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
  take(event.dataTransfer.files);
});
