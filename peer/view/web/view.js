// Keeps an open page in step with the peer. Without this file the page is complete, only not live.
"use strict";
(() => {
  const live = document.getElementById("live");
  let offset = Number(document.body.dataset.now) - Date.now(); // of the peer's clock to ours
  let heard = Date.now();
  let paused = false;
  let busy = false;
  let behind = false;

  const words = (ms) => {
    const s = Math.max(0, Math.floor(ms / 1000));
    if (s < 60) return s + " s";
    if (s < 3600) return Math.floor(s / 60) + " min";
    if (s < 172800) return Math.floor(s / 3600) + " h";
    return Math.floor(s / 86400) + " d";
  };

  // Ages go on while nothing arrives: a value that is no longer new must not look new.
  const tick = () => {
    const now = Date.now() + offset;
    for (const t of document.querySelectorAll("time.age")) {
      const age = now - Number(t.dataset.at);
      const text = age < -120000 ? "in the future" : words(age) + " ago";
      if (t.textContent !== text) t.textContent = text;
      const row = t.closest("tr[data-stale]");
      if (row) {
        const stale = age > 1000 * Number(row.dataset.stale) || age < -120000;
        row.classList.toggle("stale", stale);
        const mark = row.querySelector(".mark.old");
        if (mark) mark.hidden = !stale;
      }
    }
    const lost = Date.now() - heard > 15000;
    document.body.classList.toggle("lost", lost);
    const clock = new Date(now).toTimeString().slice(0, 8);
    if (lost) say("Connection lost " + words(Date.now() - heard) + " ago: nothing new arrives", "lost");
    else if (paused) say("Paused", "still");
    else say("Live, " + clock, "on");
  };
  const say = (text, how) => {
    if (live.textContent !== text) live.textContent = text;
    live.className = how;
  };

  // Makes the old tree like the new one, touching only what differs, so that focus, scrolling and open details stay.
  const morph = (old, next) => {
    if (old.nodeType !== next.nodeType || old.nodeName !== next.nodeName || (old.id || "") !== (next.id || "")) {
      old.replaceWith(document.importNode(next, true));
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== next.nodeValue) old.nodeValue = next.nodeValue;
      return;
    }
    for (const a of [...old.attributes]) {
      if (!next.hasAttribute(a.name) && !(old.nodeName === "DETAILS" && a.name === "open")) old.removeAttribute(a.name);
    }
    for (const a of next.attributes) {
      if (old.getAttribute(a.name) !== a.value) old.setAttribute(a.name, a.value);
    }
    const wanted = [...next.childNodes];
    for (let i = 0; i < wanted.length; i++) {
      const id = wanted[i].id;
      if (id && (!old.childNodes[i] || old.childNodes[i].id !== id)) {
        const known = [...old.children].find((c) => c.id === id);
        if (known) old.insertBefore(known, old.childNodes[i] || null);
        else {
          old.insertBefore(document.importNode(wanted[i], true), old.childNodes[i] || null);
          continue;
        }
      }
      if (old.childNodes[i]) morph(old.childNodes[i], wanted[i]);
      else old.appendChild(document.importNode(wanted[i], true));
    }
    while (old.childNodes.length > wanted.length) old.lastChild.remove();
  };

  const refresh = async () => {
    if (paused || document.hidden) { behind = true; return; }
    if (busy) { behind = true; return; }
    busy = true;
    behind = false;
    try {
      const answer = await fetch(location.pathname, { cache: "no-store" });
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        if (!paused) for (const id of ["banner", "main"]) {
          const next = page.getElementById(id);
          if (next) morph(document.getElementById(id), next);
        }
        tick();
      }
    } catch (e) {
      behind = true; // the event stream will tell when the peer is back
    } finally {
      busy = false;
    }
    if (behind) setTimeout(refresh, 1000);
  };

  const stream = new EventSource("/events");
  const hear = (event) => {
    heard = Date.now();
    offset = Number(event.data) - heard;
  };
  let known = false;
  stream.addEventListener("beat", (event) => {
    hear(event);
    if (!known || behind) refresh();
    known = true;
  });
  stream.addEventListener("update", (event) => { hear(event); refresh(); });
  stream.addEventListener("error", () => { known = false; });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });

  const button = document.createElement("button");
  button.type = "button";
  const label = () => { button.textContent = paused ? "Go on" : "Pause"; };
  button.addEventListener("click", () => {
    paused = !paused;
    label();
    tick();
    refresh();
  });
  label();
  live.after(" ", button);

  setInterval(tick, 1000);
  tick();
})();
