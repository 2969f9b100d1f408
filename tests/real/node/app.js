// A cluster of two workers. Each has a thread and a child process, and asks both for every answer: `PID COUNT SQUARE SQUARE QUERY`.
const cluster = require('cluster');
const http = require('http');
const { spawn } = require('child_process');
const { Worker } = require('worker_threads');
const readline = require('readline');

if (cluster.isPrimary) {
  for (let i = 0; i < 2; i++) cluster.fork();
  cluster.on('exit', () => process.exit(1));
} else {
  const thread = new Worker("const { parentPort } = require('worker_threads'); parentPort.on('message', n => parentPort.postMessage(n * n))", { eval: true });
  const child = spawn('sh', ['-c', 'while read n; do echo $((n * n)); done'], { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = readline.createInterface({ input: child.stdout });
  const waiting = { thread: [], child: [] };
  thread.on('message', square => waiting.thread.shift()(square));
  lines.on('line', square => waiting.child.shift()(square));
  const ask = (who, question) => new Promise(resolve => { waiting[who].push(resolve); question(); });
  let count = 0;
  http.createServer(async (request, response) => {
    const n = Number(request.url.split('?')[1]);
    const squares = await Promise.all([ask('thread', () => thread.postMessage(n)), ask('child', () => child.stdin.write(n + '\n'))]);
    count++;
    response.end(`${process.pid} ${count} ${squares.join(' ')} ${n}\n`);
  }).listen(8000, '127.0.0.1');
}
