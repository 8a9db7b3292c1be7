
// --- the camera, frame by frame: never more than one frame is on its way, and none is kept

const live = document.getElementById("live");
const use = document.getElementById("use");
const video = live.querySelector("video");
const over = live.querySelector("canvas");
const colours = JSON.parse(live.dataset.colours);
const FRAME_SIDE = 480; // longer side of what is sent, in pixels: a frame is then about 30 kB
const SAME_FACE = 0.2; // intersection over union from which a box belongs to a face of the frame before
const REFUSED = {
  NotAllowedError: "The camera may not be used: allow it for this page in the browser's address bar.",
  NotFoundError: "This computer has no camera.",
  NotReadableError: "The camera is in use by another program.",
  NoCamera: "The browser gives the camera only to pages of this computer: open the page as http://127.0.0.1 or http://localhost.",
};
let camera = null;

use.addEventListener("click", useCamera);
live.querySelector(".stop").addEventListener("click", () => stopCamera());
live.querySelector(".still").addEventListener("click", () => {
  const at = new Date().toTimeString().slice(0, 8).replaceAll(":", ".");
  take([new File([jpeg(still())], `camera ${at}.jpg`, { type: "image/jpeg" })]);
});
addEventListener("pagehide", () => stopCamera());

async function useCamera() {
  if (camera) return;
  const mine = (camera = { going: new AbortController(), faces: [], times: [] });
  live.hidden = false;
  use.hidden = true;
  told("Waiting for the camera …");
  try {
    if (!navigator.mediaDevices) throw { name: "NoCamera" };
    const wanted = { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" };
    const stream = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
    if (camera !== mine) return release(stream);
    mine.stream = stream;
    const [track] = stream.getVideoTracks();
    track.addEventListener("ended", () => camera === mine && stopCamera("The camera has stopped."));
    mine.mirrored = track.getSettings().facingMode !== "environment"; // as in a mirror, unless it looks away
    live.classList.toggle("mirrored", mine.mirrored);
    video.srcObject = stream;
    await video.play();
    told("");
    await follow(mine);
  } catch (error) {
    if (camera === mine) stopCamera(REFUSED[error.name] ?? "No answer: fra app has stopped.");
  }
}

function release(stream) {
  for (const track of stream.getTracks()) track.stop();
}

function stopCamera(why = "") {
  if (!camera) return;
  const { stream, going } = camera;
  camera = null;
  going.abort();
  if (stream) release(stream);
  video.srcObject = null;
  over.width = over.height = 0;
  live.querySelector(".rate").textContent = "";
  live.querySelector(".said").replaceChildren();
  live.hidden = !why;
  live.classList.toggle("off", Boolean(why));
  live.classList.remove("drawn");
  use.hidden = false;
  told(why);
}

async function follow(mine) {
  live.classList.remove("off");
  while (camera === mine) {
    if (document.hidden || !video.videoWidth) {
      await pause(200);
      continue;
    }
    const view = live.querySelector(".view")?.value ?? "";
    const frame = still();
    const answer = await fetch(`live?view=${view}`, {
      method: "POST",
      body: jpeg(reduced(frame)),
      headers: { "Content-Type": "application/octet-stream" },
      signal: mine.going.signal,
    });
    if (answer.status === 200) {
      const { sentence, faces } = await answer.json();
      await Promise.all(faces.map(withPicture));
      if (camera !== mine) return;
      mine.faces = numbered(faces, mine.faces, live.querySelector(".steady").checked);
      told(sentence);
      draw(frame, mine);
      live.classList.add("drawn"); // nobody sees the video below it any more, and to paint it takes time
      describe(mine.faces);
      mine.times = [...mine.times.slice(-9), performance.now()];
      const seconds = (mine.times.at(-1) - mine.times[0]) / 1000;
      if (seconds) live.querySelector(".rate").textContent = `${((mine.times.length - 1) / seconds).toFixed(1)} frames a second`;
      await new Promise(requestAnimationFrame);
    } else {
      told(answer.status === 503 ? "Photos are analysed first …" : "Something went wrong; the terminal that runs fra app says what.");
      await pause(500);
    }
  }
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

// The frame of the moment.
function still() {
  return copied(video, video.videoWidth, video.videoHeight);
}

function reduced(frame) {
  const share = Math.min(1, FRAME_SIDE / Math.max(frame.width, frame.height));
  return copied(frame, Math.round(frame.width * share), Math.round(frame.height * share));
}

function copied(picture, width, height) {
  const frame = element("canvas");
  frame.width = width;
  frame.height = height;
  frame.getContext("2d").drawImage(picture, 0, 0, width, height);
  return frame;
}

// At once: `toBlob` waits until the browser is idle, which takes longer than the answer.
function jpeg(frame) {
  const text = atob(frame.toDataURL("image/jpeg", 0.85).split(",")[1]);
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
}

async function withPicture(face) {
  if (!face.picture) return;
  face.image = new Image();
  face.image.src = face.picture;
  await face.image.decode();
}

// The faces with the numbers that they had in the frame before, where their boxes meet; steady ones move half of the way.
function numbered(faces, before, steady) {
  const free = [...before];
  for (const face of faces) {
    const shares = free.map((other) => overlap(face.box, other.box));
    const best = shares.indexOf(Math.max(...shares));
    if (best >= 0 && shares[best] >= SAME_FACE) {
      const [last] = free.splice(best, 1);
      face.number = last.number;
      if (steady) {
        face.box = face.box.map((value, k) => (value + last.box[k]) / 2);
        if (last.points.length === face.points.length)
          face.points = face.points.map(([x, y], k) => [(x + last.points[k][0]) / 2, (y + last.points[k][1]) / 2]);
      }
    }
  }
  const taken = new Set(faces.map((face) => face.number));
  for (const face of faces) {
    for (let number = 1; face.number === undefined; number += 1) {
      if (!taken.has(number)) face.number = number;
    }
    taken.add(face.number);
  }
  return faces;
}

function overlap(a, b) {
  const across = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0]));
  const down = Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (across * down) / (area(a) + area(b) - across * down);
}

// The frame that was analysed, and on it what was found: over the moving picture it would lag behind.
function draw(frame, { faces, mirrored }) {
  const [width, height, ratio] = [video.clientWidth, video.clientHeight, devicePixelRatio];
  over.width = width * ratio;
  over.height = height * ratio;
  const pen = over.getContext("2d");
  pen.scale(ratio, ratio);
  const x = (share) => (mirrored ? 1 - share : share) * width;
  pen.save();
  if (mirrored) pen.transform(-1, 0, 0, 1, width, 0);
  pen.drawImage(frame, 0, 0, width, height);
  pen.globalAlpha = live.querySelector(".opacity").value / 100;
  for (const face of faces) {
    if (!face.image) continue;
    const [left, top, right, bottom] = face.square;
    pen.drawImage(face.image, left * width, top * height, (right - left) * width, (bottom - top) * height);
  }
  pen.restore();
  for (const face of faces) {
    const size = Math.max(1.2, ((face.box[2] - face.box[0]) * width) / 70);
    face.points.forEach(([across, down], k) => {
      pen.beginPath();
      pen.arc(x(across), down * height, size, 0, 2 * Math.PI);
      pen.fillStyle = colours.points[face.sure[k] ? 0 : 1];
      pen.fill();
      pen.lineWidth = 0.7;
      pen.strokeStyle = "#14281480";
      pen.stroke();
    });
    plate(pen, face, x, width, height);
  }
}

function plate(pen, face, x, width, height) {
  const colour = colourOf(face);
  const [near, far] = [x(face.box[0]), x(face.box[2])];
  const [left, right] = [Math.max(1, Math.min(near, far)), Math.min(width - 1, Math.max(near, far))];
  const [top, bottom] = [Math.max(1, face.box[1] * height), Math.min(height - 1, face.box[3] * height)];
  pen.lineWidth = 3;
  pen.strokeStyle = colour;
  pen.strokeRect(left, top, right - left, bottom - top);
  pen.font = "600 14px system-ui, sans-serif";
  const words = `${face.number} ${face.title}`.trim();
  const long = pen.measureText(words).width + 12;
  const start = Math.max(0, Math.min(left - 1.5, width - long));
  const line = top >= 22 ? top - 22 : bottom + 22 <= height ? bottom : top;
  pen.fillStyle = colour;
  pen.fillRect(start, line, long, 22);
  pen.fillStyle = "#202124";
  pen.fillText(words, start + 6, line + 16);
}

function colourOf(face) {
  return colours.faces[face.number % colours.faces.length]; // as in annotated clips
}

function describe(faces) {
  const rows = faces.map((face) => {
    const row = element("div");
    const tag = element("span", "tag", String(face.number));
    tag.style.background = colourOf(face);
    const unsure = face.sure.filter((sure) => !sure).length;
    const said = Object.entries(face.said).map(([task, short]) => `${task}: ${short}`);
    if (unsure) said.push(`${unsure} of low confidence are orange`);
    row.append(tag, ` ${said.join(" · ") || "face"}`);
    return row;
  });
  live.querySelector(".said").replaceChildren(...rows);
}

function told(words) {
  live.querySelector(".told").textContent = words;
}

// --- drawn faces, for those who have no photo at hand; none of them is a person

const drawn = document.getElementById("drawn");
const OFFERED = 5;
let offering = 0;

async function offer(seeds) {
  const mine = (offering += 1);
  const row = drawn.querySelector(".faces");
  row.replaceChildren(...seeds.map(() => element("button")));
  for (const [place, seed] of seeds.entries()) {
    try {
      const answer = await fetch(`drawn?seed=${seed}`);
      if (mine !== offering || !answer.ok) return;
      const face = await answer.blob();
      const [button, image] = [row.children[place], element("img")];
      image.alt = `drawn face ${seed}`;
      image.src = URL.createObjectURL(face);
      image.addEventListener("load", () => URL.revokeObjectURL(image.src));
      button.append(image);
      button.addEventListener("click", () => take([new File([face], `drawn face ${seed}.jpg`, { type: "image/jpeg" })]));
    } catch {
      return; // the page works without them
    }
  }
}

drawn.querySelector(".others").addEventListener("click", () => {
  offer(Array.from({ length: OFFERED }, () => Math.floor(Math.random() * 1e6)));
});
offer(JSON.parse(drawn.dataset.seeds));
