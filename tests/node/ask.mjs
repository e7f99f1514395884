// Asks a typed service by the .proto file alone: node ask.mjs FILE ADDRESS SERVICE
//
// Each line of standard input is {"method": ..., "request": ...}; each line of standard output is
// {"answer": ...} or {"error": {"code": ..., "details": ...}}, in the same order.

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import { createInterface } from "node:readline";

const [file, address, service] = process.argv.slice(2);
const definition = loader.loadSync(file, { keepCase: true, longs: Number, bytes: String });
const Service = service
  .split(".")
  .reduce((found, name) => found[name], grpc.loadPackageDefinition(definition));
const client = new Service(address, grpc.credentials.createInsecure());

function ask({ method, request }) {
  const deadline = Date.now() + 30_000;
  return new Promise((resolve) => {
    client[method](request, { deadline }, (error, answer) => {
      if (error) resolve({ error: { code: error.code, details: error.details } });
      else resolve({ answer });
    });
  });
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await ask(JSON.parse(line))));
}
client.close();
