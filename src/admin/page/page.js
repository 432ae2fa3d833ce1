// Puts what /ui/events says in place of what is shown, section by section, and only where it differs.
'use strict';
(() => {
  const live = document.getElementById('live');
  const link = document.getElementById('link');
  const shown = new Map();
  let source, timer;

  const say = (text, bad) => {
    if (link.textContent !== text) link.textContent = text;
    link.classList.toggle('bad', bad);
  };

  function show(html) {
    const next = new DOMParser().parseFromString(`<main>${html}</main>`, 'text/html').querySelector('main');
    const ids = [...next.children].map((section) => section.id);
    for (const old of [...live.children]) if (!ids.includes(old.id)) old.remove();
    for (const section of [...next.children]) {
      const old = document.getElementById(section.id);
      const before = shown.get(section.id);
      shown.set(section.id, section.outerHTML);
      if (!old) live.append(section);
      else if (before !== section.outerHTML && !selected(old)) replace(old, section);
    }
  }

  // What somebody is marking to copy stays.
  const selected = (section) => {
    const marked = document.getSelection();
    const is = marked && !marked.isCollapsed && section.contains(marked.anchorNode);
    if (is) shown.delete(section.id);
    return is;
  };

  function replace(old, section) {
    const all = [...old.querySelectorAll('[tabindex], summary')];
    const at = all.indexOf(document.activeElement);
    const scrolled = all.map((one) => [one.scrollLeft, one.scrollTop]);
    const open = [...old.querySelectorAll('details')].map((one) => one.open);
    const same =
      old.querySelector('details summary')?.textContent === section.querySelector('details summary')?.textContent;
    old.replaceWith(section);
    if (same)
      section.querySelectorAll('details').forEach((one, index) => {
        one.open = open[index];
      });
    section.querySelectorAll('[tabindex], summary').forEach((one, index) => {
      if (index === at) one.focus({ preventScroll: true });
      [one.scrollLeft, one.scrollTop] = scrolled[index] ?? [0, 0];
    });
  }

  function start() {
    stop();
    source = new EventSource('/ui/events');
    source.onmessage = (event) => {
      show(event.data);
      say('live', false);
    };
    source.onerror = () => {
      say('The gateway does not answer; trying again.', true);
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(start, 5000);
    };
  }

  function stop() {
    clearTimeout(timer);
    source?.close();
  }

  document.addEventListener('visibilitychange', () => {
    if (document.hidden) {
      stop();
      say('paused', false);
    } else start();
  });
  addEventListener('pagehide', stop);
  if (!document.hidden) start();
})();
