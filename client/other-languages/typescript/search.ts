// Stores a picture and finds it by a sentence: npm start -- HOST:PORT FILE "a sentence"
// grpcs://HOST:PORT is a server with TLS, CLIPSEEK_CA names a PEM file of the authorities to trust where they are not
// the usual ones, and CLIPSEEK_TOKEN is its token, which without TLS others can read.
import { readFileSync } from "node:fs";
import { credentials, Metadata, type ServiceError } from "@grpc/grpc-js";
import {
  type InsertResponse,
  SearchByTextRequest,
  type SearchByTextResponse,
  InsertRequest,
  SearchServiceClient,
} from "./generated/clipseek/v1/search_service.js";

const [address, file, sentence] = process.argv.slice(2);
if (!address || !file || !sentence) {
  console.error('usage: npm start -- HOST:PORT FILE "a sentence"');
  process.exit(2);
}

const token = process.env.CLIPSEEK_TOKEN;
const metadata = new Metadata();
if (token) metadata.set("authorization", `Bearer ${token}`);
const ca = process.env.CLIPSEEK_CA;
const client = new SearchServiceClient(
  address.replace(/^grpcs?:\/\//, ""),
  address.startsWith("grpcs:") ? credentials.createSsl(ca ? readFileSync(ca) : null) : credentials.createInsecure(),
);
const options = { deadline: Date.now() + 30_000 };

const inserted = await new Promise<InsertResponse>((resolve, reject) => {
  const request = InsertRequest.fromPartial({ imageData: readFileSync(file), metadata: { file } });
  client.insert(request, metadata, options, (error: ServiceError | null, answer) =>
    error ? reject(error) : resolve(answer),
  );
});
console.log(`stored as ${inserted.image?.imageId}`);

const found = await new Promise<SearchByTextResponse>((resolve, reject) => {
  const request = SearchByTextRequest.fromPartial({ text: sentence, options: { topK: 3 } });
  client.searchByText(request, metadata, options, (error: ServiceError | null, answer) =>
    error ? reject(error) : resolve(answer),
  );
});
for (const hit of found.hits) console.log(hit.score.toFixed(3), hit.image?.imageId, hit.image?.metadata);
client.close();
