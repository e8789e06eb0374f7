// Creates and lists services through a client that is generated from the API's description, with every type checked.
import createClient from "openapi-fetch";
import type { components, paths } from "./towline.js";

// The only thing of Node.js that is used; its own types are another package.
declare const process: { argv: string[] };

type Service = components["schemas"]["Service"];

const [baseUrl, key] = process.argv.slice(2);
if (baseUrl === undefined || key === undefined) throw new Error("usage: services.mjs URL KEY");
const client = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${key}` } });

const container = { service_slug: "first", display_name: "First", docker_image: "demo:1", replica_count: 2 };
const first = await client.POST("/api/v1/containers", { body: container });
if (first.data === undefined) throw new Error(first.error.error_message);
const second = await client.POST("/api/v1/containers", {
  body: { service_slug: "second", display_name: "Second", service_type: "attached", attached_target: "127.0.0.1:1" },
});
if (second.data === undefined) throw new Error(second.error.error_message);
const ids = [first.data.id, second.data.id];
const taken = await client.POST("/api/v1/containers", { body: container });

const list = await client.GET("/api/v1/containers", { params: { query: { per_page: 100 } } });
if (list.data === undefined) throw new Error(list.error.error_message);
const services: Service[] = list.data.container_list;

const unknown = await client.GET("/api/v1/r/containers/{slug}", { params: { path: { slug: "no-such" } } });
const call = { method: "GET", path: "/health" };
const invoke = await client.POST("/api/v1/r/invoke/{slug}", { params: { path: { slug: "first" } }, body: call });

console.log(
  JSON.stringify({
    listed: services.map((service) => service.id).sort().join() === ids.sort().join(),
    slugs: services.map((service) => service.service_slug),
    statuses: services.map((service) => service.service_status),
    total: list.data.page_meta.total_count,
    taken: taken.error?.error_code,
    unknown: unknown.error?.error_code,
    not_running: invoke.error?.error_code,
  }),
);
