// Waits in the ways of node; see waits.py.
const net = require('net');
const { Worker } = require('worker_threads');

const WAIT = 200;
const counts = { timeout: 0, interval: 0, promise: 0, worker: 0, back: 0 };
const again = () => setTimeout(() => { counts.timeout++; again(); }, WAIT);
again();
setInterval(() => counts.interval++, WAIT);
(async () => { for (;;) { await new Promise(resolve => setTimeout(resolve, WAIT)); counts.promise++; } })();
new Worker(`const { parentPort } = require('worker_threads');
  const word = new Int32Array(new SharedArrayBuffer(4));
  for (;;) { Atomics.wait(word, 0, 0, ${WAIT}); parentPort.postMessage(0); }`, { eval: true }).on('message', () => counts.worker++);
let last = 0n;
setInterval(() => { const now = process.hrtime.bigint(); if (now < last) counts.back++; last = now; }, 2);
net.createServer(connection => connection.end(Object.entries(counts).map(([way, n]) => `${way}=${n}`).join(' ') + '\n')).listen(7000, '127.0.0.1');
