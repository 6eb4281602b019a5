// Tries the example axum_parked with Node's own clients.
//
//     node client.mjs HOST:PORT
//
// Exits with 1 at the first thing that fails.

import assert from "node:assert/strict"
import { createHash, randomBytes } from "node:crypto"
import http from "node:http"
import { setTimeout as sleep } from "node:timers/promises"

const address = process.argv[2]
const agent = new http.Agent({ keepAlive: true, maxSockets: 20 })

function ask(path, body) {
  return new Promise((resolve, reject) => {
    const method = body ? "POST" : "GET"
    const request = http.request(`http://${address}${path}`, { agent, method }, response => {
      const port = response.socket.localPort
      const pieces = []
      response.on("data", piece => pieces.push(piece))
      response.on("error", reject)
      response.on("end", () => resolve({
        status: response.statusCode,
        port,
        body: Buffer.concat(pieces).toString(),
      }))
    })
    request.on("error", reject)
    request.end(body)
  })
}

const ports = new Set()
for (let round = 0; round < 4; round++) {
  const names = Array.from({ length: 100 }, (_, n) => `${round}-${n}`)
  for (const answer of await Promise.all(names.map(name => ask(`/hello/${name}`)))) {
    assert.equal(answer.status, 200)
    assert.equal(JSON.parse(answer.body).hello, names.shift())
    ports.add(answer.port)
  }
  // All are idle, and parked.
  await sleep(300)
}
// All connections were used all the time.
assert.equal(ports.size, 20)

const body = randomBytes(3_000_000)
const uploaded = JSON.parse((await ask("/upload", body)).body)
const sha256 = createHash("sha256").update(body).digest("hex")
assert.deepEqual(uploaded, { bytes: body.length, sha256 })
assert.equal((await ask("/stream/3")).body, "chunk 0\nchunk 1\nchunk 2\n")
assert.equal((await ask("/nothing")).status, 404)
agent.destroy()

const fetched = await fetch(`http://${address}/hello/fetch`)
assert.deepEqual(await fetched.json(), { hello: "fetch" })

if (globalThis.WebSocket) {
  const socket = new WebSocket(`ws://${address}/ws`)
  await new Promise((resolve, reject) => { socket.onopen = resolve; socket.onerror = reject })
  for (const text of ["hello", "x".repeat(100_000)]) {
    const answer = new Promise(resolve => socket.onmessage = ({ data }) => resolve(data))
    socket.send(text)
    assert.equal(await answer, text)
  }
  const closed = new Promise(resolve => socket.onclose = resolve)
  socket.close(1000, "enough")
  assert.equal((await closed).code, 1000)
}
