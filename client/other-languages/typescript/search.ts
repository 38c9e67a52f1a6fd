// Stores a picture and finds it by a sentence: npm start -- HOST:PORT FILE "a sentence"
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
const client = new SearchServiceClient(address, credentials.createInsecure());
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
