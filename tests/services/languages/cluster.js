// cluster.js - a node cluster: the first process accepts for its workers and hands them the connections. Each has some ten threads.
//
// It answers on port 7000 as the other services do (../main.c): `verify`, `exit STATUS`, and `fork`, which replaces a worker.
// A worker that is asked passes the word on to the first process, which asks all of them. Nothing is restarted or repaired.
'use strict';
const cluster = require('cluster');
const crypto = require('crypto');
const net = require('net');

const WORKERS = 4;
let count = 0;
setInterval(() => count++, 10);

// Resolves when timers and the thread pool have done something.
function goesOn() {
  return new Promise((resolve) => setTimeout(() => crypto.pbkdf2('a', 'b', 1000, 16, 'sha256', resolve), 20));
}

function ask(worker) {
  return new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`worker ${worker.process.pid} does not answer`)), 30000).unref();
    const hear = (message) => {
      if (message.pong === undefined) return;
      worker.off('message', hear);
      resolve(message);
    };
    worker.on('message', hear);
    worker.send({ ping: true });
  });
}

async function verify() {
  await goesOn();
  const workers = Object.values(cluster.workers);
  if (workers.length !== WORKERS) return `error ${workers.length} workers`;
  for (const worker of workers) {
    const { pong } = await ask(worker);
    if (pong !== worker.process.pid) return `error worker ${worker.process.pid} is ${pong}`;
  }
  return `ok pid=${process.pid} workers=${workers.length} count=${count}`;
}

// A new worker, by the path that node remembers: /proc/self/exe may be another after a restore.
async function replace() {
  const old = Object.values(cluster.workers)[0];
  const ended = new Promise((resolve) => old.once('exit', resolve));
  old.process.kill('SIGKILL');
  await ended;
  const worker = cluster.fork();
  await new Promise((resolve) => worker.once('listening', resolve));
  return verify();
}

async function first() {
  const answers = { verify, fork: replace };
  cluster.on('message', async (worker, { id, word }) => {
    if (id === undefined) return;
    const [verb, argument] = word.split(' ');
    if (verb === 'exit') process.exit(Number(argument));
    const answer = await (answers[verb] || (() => 'error this is no word of mine'))().catch((error) => `error ${error.message}`);
    const asker = worker.isConnected() ? worker : Object.values(cluster.workers)[0];
    asker.send({ id, answer });
  });
  for (let n = 0; n < WORKERS; n++) cluster.fork();
}

function worker() {
  const waiting = new Map();
  let next = 0;
  process.on('message', async (message) => {
    if (message.ping) {
      await goesOn();
      process.send({ pong: process.pid });
    } else if (waiting.has(message.id)) {
      waiting.get(message.id).end(`${message.answer}\n`);
      waiting.delete(message.id);
    }
  });
  net.createServer((connection) => {
    connection.on('error', () => {});
    connection.once('data', (data) => {
      waiting.set(next, connection);
      process.send({ id: next++, word: data.toString().trim() });
    });
  }).listen(7000, '127.0.0.1');
}

if (cluster.isPrimary) first();
else worker();
