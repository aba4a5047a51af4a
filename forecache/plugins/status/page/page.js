"use strict";
// Loads the page again every two seconds and changes only what differs, so that nothing flickers, and what is scrolled
// to, selected or focused stays. While the reader does not answer, the last figures stand, and that is said.
addEventListener("DOMContentLoaded", () => {
  const EVERY_MS = 2000, WAIT_MS = 8000;
  let answered = new Date();

  function morph(from, to) {
    if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName) return from.replaceWith(to);
    if (from.nodeType === Node.TEXT_NODE) {
      if (from.data !== to.data) from.data = to.data;
      return;
    }
    for (const { name, value } of [...to.attributes]) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
    for (const { name } of [...from.attributes]) if (!to.hasAttribute(name)) from.removeAttribute(name);
    const old = [...from.childNodes], fresh = [...to.childNodes];
    fresh.forEach((node, place) => (place < old.length ? morph(old[place], node) : from.append(node)));
    old.slice(fresh.length).forEach((node) => node.remove());
  }

  function say(problem) {
    const place = document.querySelector(".lost");
    const since = answered.toISOString().slice(11, 19);
    const text = problem ? `The reader has not answered since ${since} UTC (${problem}). These figures are from then.` : "";
    if (place.textContent !== text) place.textContent = text;
    place.hidden = !problem;
    document.body.classList.toggle("stands", Boolean(problem));
  }

  async function refresh() {
    try {
      const reply = await fetch(location.pathname, {
        headers: { accept: "text/html" }, cache: "no-store", signal: AbortSignal.timeout(WAIT_MS),
      });
      if (!reply.ok) throw new Error(`status ${reply.status}`);
      const next = new DOMParser().parseFromString(await reply.text(), "text/html");
      answered = new Date();
      morph(document.body, next.body);
      document.title = next.title;
      const icon = document.querySelector("link[rel=icon]"), link = next.querySelector("link[rel=icon]").href;
      if (icon.href !== link) icon.href = link;
    } catch (error) {
      say(error.name === "TypeError" ? "no connection" : error.name === "TimeoutError" ? "no answer in time" : error.message);
    }
  }

  async function turn() {
    if (!document.hidden) await refresh();
    setTimeout(turn, EVERY_MS);
  }

  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  setTimeout(turn, EVERY_MS);
});
