// What both pages share: showing messages, keeping those that are not sent yet, and files.

const FILES = '/file-engine/api/';
const SOON = 5 * 60 * 1000;

// --- elements ---

export const $ = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  const { dataset = {}, ...rest } = properties;
  Object.assign(element, rest);
  Object.assign(element.dataset, dataset);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const newId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, '0')).join('');

export function avatar(element, name) {
  const words = name.trim().split(/\s+/);
  const letters = words.length > 1 ? words[0][0] + words.at(-1)[0] : name.slice(0, 2);
  element.textContent = letters.toUpperCase();
  let sum = 0;
  for (const letter of name) sum = (sum * 31 + letter.codePointAt(0)) % 360;
  element.style.setProperty('--hue', sum);
}

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const calendar = new Intl.DateTimeFormat(undefined, { weekday: 'long', day: 'numeric', month: 'long' });

export const timeOf = (at) => clock.format(at);

function dayOf(at) {
  const day = new Date(at).toDateString();
  if (day === new Date().toDateString()) return 'Today';
  if (day === new Date(Date.now() - 864e5).toDateString()) return 'Yesterday';
  return calendar.format(at);
}

function sizeOf(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  if (bytes < 1048576) return `${Math.round(bytes / 1024)} KB`;
  return `${(bytes / 1048576).toFixed(1)} MB`;
}

export function preview(message) {
  if (!message) return 'No messages yet';
  return message.text || (message.file ? `Sent ${message.file.name}` : '');
}

// --- the connection, as people see it ---

const WORDS = { polling: 'Long polling', websocket: 'WebSocket', none: 'Offline' };

export function showTransport(name) {
  document.documentElement.dataset.transport = name;
  const pill = $('transport');
  pill.dataset.transport = name;
  pill.textContent = name;
  pill.title = `Connected by: ${WORDS[name]}`;
  $('status').hidden = name !== 'none';
}

// --- the log ---

export class Log {
  #list;
  #side;
  #items = new Map();
  // Whether the reader is at the end, and so wants to stay there whatever grows or shrinks.
  #atEnd = true;

  constructor(list, side) {
    this.#list = list;
    this.#side = side;
    list.addEventListener('scroll', () => {
      const { scrollTop, scrollHeight, clientHeight } = list;
      this.#atEnd = scrollHeight - scrollTop - clientHeight < 80;
    });
    new ResizeObserver(() => this.#stay()).observe(list);
  }

  clear() {
    this.#list.replaceChildren();
    this.#items.clear();
  }

  // Shows a message, or what has become of it.
  show(message) {
    const old = this.#items.get(message.id);
    const item = this.#item(message);
    if (old) {
      old.replaceWith(item);
    } else {
      this.#list.append(item);
    }
    this.#items.set(message.id, item);
    item.message = message;
    this.#regroup(item);
    if (message.from === this.#side && !old) this.toEnd();
    else this.#stay();
  }

  progress(id, part) {
    const bar = this.#items.get(id)?.querySelector('progress');
    if (bar) bar.value = part;
  }

  toEnd() {
    this.#atEnd = true;
    this.#list.scrollTop = this.#list.scrollHeight;
  }

  #stay() {
    if (this.#atEnd) this.toEnd();
  }

  #item(message) {
    const mine = message.from === this.#side;
    const bubble = make('div', { className: 'bubble' });
    if (message.text) bubble.append(make('p', { textContent: message.text }));
    if (message.file) bubble.append(this.#file(message));
    const state = { sending: 'Sending…', failed: message.why }[message.state];
    const foot = make(
      'div',
      { className: 'foot' },
      make('span', { className: 'who', textContent: mine ? 'You' : message.name }),
      make('time', { dateTime: new Date(message.at).toISOString(), textContent: timeOf(message.at) }),
      state ? make('span', { className: 'state', textContent: state }) : null,
    );
    return make(
      'li',
      {
        className: `message ${mine ? 'mine' : 'theirs'}`,
        dataset: { id: message.id, from: message.from, state: message.state ?? 'sent' },
      },
      bubble,
      foot,
    );
  }

  #file(message) {
    const { name, url, type, size } = message.file;
    if (!url) {
      const bar = make('progress', { max: 1, value: 0, ariaLabel: `Uploading ${name}` });
      const failed = message.state === 'failed';
      return make('div', { className: 'file' }, label(name, size), failed ? null : bar);
    }
    const link = make('a', { className: 'file', href: url, download: name });
    if (/^image\/(png|jpeg|gif|webp)$/.test(type)) {
      const picture = make('img', { src: url, alt: name });
      picture.onload = () => this.#stay();
      link.classList.add('picture');
      link.append(picture);
    }
    link.append(label(name, size));
    return link;
  }

  // Messages close together by the same person stand together, with one line below them.
  #regroup(item) {
    const previous = item.previousElementSibling?.message;
    const { message } = item;
    const sameDay = previous && dayOf(previous.at) === dayOf(message.at);
    if (sameDay) delete item.dataset.day;
    else item.dataset.day = dayOf(message.at);
    const joined =
      sameDay && previous.from === message.from && previous.name === message.name && message.at - previous.at < SOON;
    item.classList.toggle('joined', Boolean(joined));
    item.previousElementSibling?.classList.toggle('followed', Boolean(joined));
  }
}

function label(name, size) {
  return make(
    'span',
    { className: 'file-label' },
    make('span', { className: 'file-name', textContent: name }),
    make('span', { className: 'file-size', textContent: sizeOf(size) }),
  );
}

// --- files ---

// Puts a file into the file engine; gives what a message says about it.
export function upload(file, progress) {
  const form = new FormData();
  form.append('file', file, file.name);
  return new Promise((resolve, reject) => {
    // fetch() cannot tell how far an upload has come.
    const request = new XMLHttpRequest();
    request.open('POST', `${FILES}uploadFileStream`);
    request.responseType = 'json';
    request.upload.onprogress = (event) => progress(event.loaded / event.total);
    request.onerror = () => reject(new Error('The upload was interrupted'));
    request.onload = () => {
      if (request.status === 413) return reject(new Error('The file is too large'));
      const stored = request.response;
      if (request.status !== 200 || !stored?.filename) {
        return reject(new Error('The file could not be sent'));
      }
      const url = `${FILES}downloadFileStream?filename=${encodeURIComponent(stored.filename)}`;
      resolve({ name: file.name, url, type: stored.type, size: stored.size });
    };
    request.send(form);
  });
}

// --- the line one writes in ---

export class Composer {
  // Called with the text, or with a file.
  onText = () => {};
  onFile = () => {};
  onTyping = () => {};

  #typing = 0;

  constructor() {
    const text = $('text');
    const grow = () => {
      text.style.height = 'auto';
      text.style.height = `${Math.min(text.scrollHeight, 140)}px`;
      $('send').disabled = text.disabled || text.value.trim() === '';
    };
    text.addEventListener('input', () => {
      grow();
      this.#tell(text.value !== '');
    });
    text.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      $('composer').requestSubmit();
    });
    $('composer').addEventListener('submit', (event) => {
      event.preventDefault();
      const value = text.value.trim();
      if (!value) return;
      text.value = '';
      grow();
      this.#tell(false);
      this.onText(value);
      text.focus();
    });
    $('file').addEventListener('change', () => {
      for (const file of $('file').files) this.onFile(file);
      $('file').value = '';
    });
    text.addEventListener('paste', (event) => {
      const files = [...event.clipboardData.files];
      if (files.length === 0) return;
      event.preventDefault();
      files.forEach((file) => this.onFile(file));
    });
    // Fits the line to what is in it, once it can be seen.
    this.refresh = grow;
    grow();
  }

  #tell(on) {
    if (on !== Boolean(this.#typing)) this.onTyping(on);
    clearTimeout(this.#typing);
    this.#typing = on ? setTimeout(() => this.#tell(false), 4000) : 0;
  }
}

// Shows that somebody types, and stops showing it if the end of it is never heard.
export class TypingNote {
  #timer = 0;

  show(name) {
    $('typing-name').textContent = `${name} is typing`;
    $('typing').dataset.on = '';
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.hide(), 6000);
  }

  hide() {
    clearTimeout(this.#timer);
    delete $('typing').dataset.on;
    $('typing-name').textContent = '';
  }
}
