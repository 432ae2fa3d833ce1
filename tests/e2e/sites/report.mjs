// The report of a run on two sites: a table of losses at each event, and a plot of the sessions opened in each second.

/** Counts events between `from` and `to`: `told` are reports of the clients, `taken` deliveries to the sites. */
export function tally(told, taken, from, to) {
  const mine = told.filter(({ at }) => at >= from && at < to);
  const of = (kind) => mine.filter((line) => line.kind === kind);
  const delivered = new Set(taken.filter(({ kind }) => kind === 'note').map(({ id }) => id));
  const answered = new Set(told.filter(({ kind }) => kind === 'answered').map(({ id }) => id));
  const notes = of('note');
  return {
    away: longestAway(told, from, to),
    webhook: longestUntaken(told, from, to),
    refused: of('webhook').filter(({ answer }) => answer !== 200).length,
    uploads: of('upload').filter(({ answer }) => answer !== 200).length,
    notes: notes.length,
    unanswered: notes.filter(({ id }) => !answered.has(id)).length,
    lost: notes.filter(({ id }) => !delivered.has(id)).length,
    sessions: of('connect').length,
  };
}

/** The longest time in milliseconds for which notes of a client were not answered, counted at its beginning. */
function longestAway(told, from, to) {
  const last = new Map();
  let longest = 0;
  for (const { kind, id, at } of told) {
    if (kind !== 'answered') continue;
    const who = id.split('/')[0];
    const before = last.get(who);
    if (before >= from && before < to) longest = Math.max(longest, at - before);
    last.set(who, at);
  }
  return longest;
}

/** The longest time between two webhooks that were taken, in milliseconds. */
function longestUntaken(told, from, to) {
  const times = told
    .filter(({ kind, answer }) => kind === 'webhook' && answer === 200)
    .map(({ at }) => at)
    .sort((a, b) => a - b);
  let longest = 0;
  for (let i = 1; i < times.length; i++) {
    if (times[i - 1] >= from && times[i - 1] < to) longest = Math.max(longest, times[i] - times[i - 1]);
  }
  return longest;
}

const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;

export function table(rows) {
  const head = [
    'event',
    'longest anybody got no answer',
    'longest without a webhook taken',
    'webhooks refused or cut, and sent again',
    'uploads begun anew',
    'notes sent',
    'not answered',
    'of these lost',
    'sessions opened',
  ];
  const lines = rows.map((r) => [
    r.event,
    seconds(r.away),
    seconds(r.webhook),
    r.refused,
    r.uploads,
    r.notes,
    r.unanswered,
    r.lost,
    r.sessions,
  ]);
  return [head, head.map(() => '---'), ...lines].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

/** Sessions opened in each second, as an SVG of bars; `rows` are the events, marked where they happened. */
export function plot(told, rows, title) {
  const connects = told.filter(({ kind }) => kind === 'connect').map(({ at }) => at);
  const begin = Math.min(...connects);
  const last = Math.ceil((Math.max(...connects, ...rows.map((r) => r.at)) - begin) / 1000) + 1;
  const counts = Array(last).fill(0);
  for (const at of connects) counts[Math.floor((at - begin) / 1000)] += 1;
  const [left, top, height, step] = [40, 120, 160, 6];
  const most = Math.max(...counts);
  const y = (n) => top + height - (n / most) * height;
  const text = (x, at, what, more = '') => `<text x="${x}" y="${at}" ${more}>${what}</text>`;
  const bars = counts.map((n, i) =>
    n ? `<rect x="${left + i * step}" y="${y(n)}" width="${step - 1}" height="${top + height - y(n)}"/>` : '',
  );
  const marks = rows.map(({ at, event }) => {
    const x = left + ((at - begin) / 1000) * step;
    return `<path d="M${x} ${top - 4}V${top + height}"/>${text(x + 2, top - 8, event, `transform="rotate(-35 ${x + 2} ${top - 8})"`)}`;
  });
  const axis = [0, most]
    .map((n) => text(left - 6, y(n) + 4, n, 'text-anchor="end"'))
    .concat(
      [...Array(Math.floor(last / 30) + 1).keys()].map((i) =>
        text(left + i * 30 * step, top + height + 16, `${i * 30} s`),
      ),
    );
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${left + last * step + 120} ${top + height + 30}" font-family="sans-serif" font-size="11">
<style>rect{fill:#2a6f97}.background{fill:#fff}path{stroke:#b3541e;stroke-width:1}text{fill:#444}</style>
<rect class="background" width="100%" height="100%"/>
${text(4, 14, title, 'font-size="13"')}
${bars.join('')}
${marks.join('\n')}
${axis.join('')}
</svg>
`;
}
