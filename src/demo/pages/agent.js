// The agent's page: every conversation, one of them open.

import { $, Composer, Log, TypingNote, avatar, make, newId, preview, showTransport, timeOf, upload } from './chat.js';
import { Socket } from './socket.js';

const SIDE = 'agent';
const asked = new URLSearchParams(location.search);

const log = new Log($('messages'), SIDE);
const typing = new TypingNote();
const composer = new Composer();
const socket = new Socket({ upgrade: asked.get('transports') !== 'polling' });

// By id: { summary, row, unread, typing }. The list on the page is in the order of the latest.
const conversations = new Map();
const unsent = new Map();
let open = null;
let joined = false;

const join = () => socket.emit('join', { role: SIDE, name: $('name').value });

// --- connection ---

socket.onTransport = showTransport;
socket.onOpen = join;
socket.onClose = () => {
  joined = false;
  typing.hide();
};

socket.on('welcome', (welcome) => {
  joined = true;
  // The latest first, as they come; so the last to be moved to the top is the latest.
  welcome.conversations.reverse().forEach(update);
  showCount();
  if (open) socket.emit('open', { conversation: open });
  for (const message of unsent.values()) socket.emit('message', message);
});

socket.on('conversation', (summary) => {
  if (summary) update(summary);
  showCount();
});

socket.on('history', ({ conversation, messages }) => {
  if (conversation !== open) return;
  messages.forEach(show);
  log.toEnd();
});

socket.on('message', (message) => {
  unsent.delete(message.id);
  const known = conversations.get(message.conversation);
  if (known) {
    const isOpen = message.conversation === open && !document.hidden;
    if (message.from !== SIDE && !isOpen) known.unread += 1;
    known.typing = false;
    update({ ...known.summary, last: message });
  }
  if (message.conversation === open) {
    if (message.from !== SIDE) typing.hide();
    show(message);
  }
  showCount();
});

socket.on('typing', ({ conversation, from, name, on }) => {
  const known = conversations.get(conversation);
  if (!known || from === SIDE) return;
  known.typing = on;
  draw(known);
  if (conversation !== open) return;
  if (on) typing.show(name);
  else typing.hide();
});

const show = (message) => {
  unsent.delete(message.id);
  log.show(message);
};

// --- the list ---

function update(summary) {
  let known = conversations.get(summary.id);
  const before = known?.summary.last?.id;
  if (!known) {
    known = { row: row(summary.id), unread: 0, typing: false };
    conversations.set(summary.id, known);
  }
  known.summary = summary;
  // Only something new moves a row: coming and going must not shuffle the list under a cursor.
  if (!known.row.isConnected || before !== summary.last?.id) $('conversations').prepend(known.row);
  draw(known);
  if (summary.id === open) drawOpen();
}

function row(id) {
  const button = make(
    'button',
    { type: 'button', className: 'row', dataset: { conversation: id } },
    make('span', { className: 'avatar', ariaHidden: 'true' }),
    make(
      'span',
      { className: 'row-text' },
      make('span', { className: 'row-name' }),
      make('span', { className: 'row-last' }),
    ),
    make(
      'span',
      { className: 'row-side' },
      make('time', { className: 'row-time' }),
      make('span', { className: 'unread' }),
    ),
  );
  button.addEventListener('click', () => choose(id));
  return make('li', {}, button);
}

function draw({ summary, row, unread, typing: types }) {
  const part = (name) => row.querySelector(`.${name}`);
  const button = part('row');
  avatar(part('avatar'), summary.name);
  part('row-name').textContent = summary.name;
  part('row-last').textContent = types ? 'Typing…' : preview(summary.last);
  part('row-last').classList.toggle('types', types);
  part('row-time').textContent = summary.last ? timeOf(summary.last.at) : '';
  part('unread').textContent = unread || '';
  part('unread').ariaLabel = unread ? `${unread} unread` : '';
  button.dataset.online = summary.online;
  button.dataset.unread = unread;
  button.setAttribute('aria-current', summary.id === open);
}

function showCount() {
  const all = [...conversations.values()];
  const online = all.filter(({ summary }) => summary.online).length;
  const unread = all.reduce((sum, one) => sum + one.unread, 0);
  $('nobody').hidden = all.length > 0;
  $('count').textContent = all.length === 0 ? 'None yet' : `${online} of ${all.length} online`;
  $('count').dataset.online = online > 0;
  document.title = unread ? `(${unread}) Agent desk` : 'Agent desk';
}

// Arrow keys walk the list, as in any list.
$('conversations').addEventListener('keydown', (event) => {
  const step = { ArrowDown: 'nextElementSibling', ArrowUp: 'previousElementSibling' }[event.key];
  const next = step && event.target.closest('li')?.[step];
  if (!next) return;
  event.preventDefault();
  next.querySelector('button').focus();
});

// --- the open one ---

function choose(id) {
  const before = conversations.get(open);
  if (id !== open) {
    open = id;
    log.clear();
    typing.hide();
    for (const message of unsent.values()) if (message.conversation === id) log.show(message);
    socket.emit('open', { conversation: id });
  }
  if (before) draw(before);
  const known = conversations.get(id);
  known.unread = 0;
  draw(known);
  drawOpen();
  showCount();
  document.body.classList.add('has-open');
  $('text').focus();
}

function drawOpen() {
  const { summary } = conversations.get(open);
  $('nothing-open').hidden = true;
  $('open').hidden = false;
  // Nothing that is hidden has a height to grow from.
  composer.refresh();
  $('who').textContent = summary.name;
  avatar($('avatar'), summary.name);
  $('presence').textContent = summary.online ? 'Online' : 'Away: will see your answer on return';
  $('presence').dataset.online = summary.online;
}

$('back').addEventListener('click', () => {
  const known = conversations.get(open);
  open = null;
  document.body.classList.remove('has-open');
  $('open').hidden = true;
  $('nothing-open').hidden = false;
  if (!known) return;
  draw(known);
  known.row.querySelector('button').focus();
});

document.addEventListener('visibilitychange', () => {
  const known = conversations.get(open);
  if (document.hidden || !known) return;
  known.unread = 0;
  draw(known);
  showCount();
});

// --- answering ---

function draft(content) {
  return {
    id: newId(),
    conversation: open,
    from: SIDE,
    name: '',
    at: Date.now(),
    text: '',
    state: 'sending',
    ...content,
  };
}

function say(message) {
  unsent.set(message.id, message);
  if (message.conversation === open) log.show(message);
  if (joined) socket.emit('message', message);
}

composer.onText = (text) => open && say(draft({ text }));

composer.onFile = async (file) => {
  if (!open) return;
  const message = draft({ file: { name: file.name, size: file.size, type: file.type } });
  log.show(message);
  try {
    const stored = await upload(file, (part) => log.progress(message.id, part));
    say({ ...message, file: stored });
  } catch (error) {
    if (message.conversation === open) log.show({ ...message, state: 'failed', why: error.message });
  }
};

composer.onTyping = (on) => open && socket.emit('typing', { conversation: open, on });

// --- who we are ---

const showMe = () => avatar($('my-avatar'), $('name').value || 'Agent');

$('name').value = localStorage.getItem('agent-name') ?? '';
$('name').addEventListener('input', showMe);
$('name').addEventListener('change', () => {
  localStorage.setItem('agent-name', $('name').value);
  if (joined) join();
});
showMe();
socket.connect();
