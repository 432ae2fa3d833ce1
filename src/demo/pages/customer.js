// The customer's page: one conversation, kept for as long as the tab lives.

import { $, Composer, Log, TypingNote, newId, showTransport, upload } from './chat.js';
import { Socket } from './socket.js';

const SIDE = 'customer';
const asked = new URLSearchParams(location.search);

const log = new Log($('messages'), SIDE);
const typing = new TypingNote();
const composer = new Composer();
const socket = new Socket({ upgrade: asked.get('transports') !== 'polling' });

// Sent by us and not yet heard back, oldest first.
const unsent = new Map();
// The key is what makes a reload the same customer; a new tab is a new one.
let key = sessionStorage.getItem('key');
let joined = false;

function join() {
  if (!key) {
    key = newId() + newId();
    sessionStorage.setItem('key', key);
  }
  socket.emit('join', { role: SIDE, key, name: $('name').value });
}

function say(message) {
  unsent.set(message.id, message);
  log.show(message);
  start();
  if (joined) socket.emit('message', message);
  else join();
}

function start() {
  $('welcome').hidden = true;
  sessionStorage.setItem('name', $('name').value);
}

function draft(content) {
  return { id: newId(), from: SIDE, name: '', at: Date.now(), text: '', state: 'sending', ...content };
}

composer.onText = (text) => say(draft({ text }));

composer.onFile = async (file) => {
  const message = draft({ file: { name: file.name, size: file.size, type: file.type } });
  log.show(message);
  start();
  try {
    const stored = await upload(file, (part) => log.progress(message.id, part));
    say({ ...message, file: stored });
  } catch (error) {
    log.show({ ...message, state: 'failed', why: error.message });
  }
};

composer.onTyping = (on) => joined && socket.emit('typing', { on });

socket.onTransport = showTransport;
socket.onClose = () => {
  joined = false;
  typing.hide();
  showAgents(null);
};
// Only who has written something is a customer; until then this is somebody reading a page.
socket.onOpen = () => key && join();

socket.on('welcome', ({ messages, agents, conversation }) => {
  joined = true;
  document.documentElement.dataset.conversation = conversation;
  // A server that has started anew knows nothing of us, and it is only polite to say hello again.
  $('welcome').hidden = messages.length > 0 || unsent.size > 0;
  messages.forEach(heard);
  for (const message of unsent.values()) socket.emit('message', message);
  showAgents(agents);
});

socket.on('message', heard);
socket.on('presence', ({ agents }) => showAgents(agents));
socket.on('typing', ({ from, name, on }) => {
  if (from === SIDE) return;
  if (on) typing.show(name);
  else typing.hide();
});

function heard(message) {
  unsent.delete(message.id);
  if (message.from !== SIDE) typing.hide();
  log.show(message);
}

function showAgents(agents) {
  const presence = $('presence');
  const here = agents?.length ?? 0;
  presence.dataset.online = here > 0;
  if (!agents) presence.textContent = 'Connecting…';
  else if (here === 0) presence.textContent = 'We will be right with you';
  else if (here === 1) presence.textContent = `${agents[0]} is here`;
  else presence.textContent = `${here} agents are here`;
}

$('name').value = sessionStorage.getItem('name') ?? '';
$('name').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter') return;
  event.preventDefault();
  $('text').focus();
});
if (key) $('welcome').hidden = true;
socket.connect();
