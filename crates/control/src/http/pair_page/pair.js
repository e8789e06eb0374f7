// The page that people confirm a device on. It signs in, asks which team is meant, confirms, and signs out again: the
// tokens live in this page's memory only.
"use strict";

const element = (id) => document.getElementById(id);
const KEPT = "towline-pair";

let tokens = null;

/** Calls the API. Gives the answer's JSON, or throws the sentence of its problem. */
async function call(method, path, body, headers = {}) {
  const request = { method, headers: { ...headers }, cache: "no-store", credentials: "omit" };
  if (body !== undefined) {
    request.headers["Content-Type"] = "application/json";
    request.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(`/api/v1${path}`, request);
  } catch {
    throw new Error("The server cannot be reached. Try again.");
  }
  const json = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (!answer.ok) {
    throw new Error(json?.error_message ?? `The server answered ${answer.status}.`);
  }
  return json;
}

const authorization = () => ({ Authorization: `Bearer ${tokens.access_token}` });

function show(id) {
  for (const part of ["sign-in", "confirm", "done"]) {
    element(part).hidden = part !== id;
  }
  element(id).querySelector("input:not([value])")?.focus();
}

function tell(error) {
  element("error").textContent = error.message;
  element("error").hidden = false;
}

/** Runs what a form asks for; while it does, the form cannot be sent again. */
function onSubmit(id, work) {
  element(id).addEventListener("submit", async (event) => {
    event.preventDefault();
    element("error").hidden = true;
    const button = element(id).querySelector("button[type=submit]");
    button.disabled = true;
    try {
      await work();
    } catch (error) {
      tell(error);
    } finally {
      button.disabled = false;
    }
  });
}

async function signedIn(fresh) {
  tokens = fresh;
  const me = await call("GET", "/users/me", undefined, authorization());
  if (me.team_list.length === 0) {
    throw new Error("You are in no team. Ask an owner or admin of a team to invite you.");
  }
  element("who").textContent = me.email_address;
  for (const team of me.team_list) {
    element("team").append(new Option(team.team_name, team.team_id));
  }
  show("confirm");
}

onSubmit("sign-in", async () => {
  const login = { email_address: element("email-address").value, user_password: element("password").value };
  const fresh = await call("POST", "/auth/login", login);
  element("password").value = "";
  await signedIn(fresh);
});

onSubmit("confirm", async () => {
  const body = { user_code: element("code").value };
  const name = element("device-name").value.trim();
  if (name !== "") {
    body.device_name = name;
  }
  const headers = { ...authorization(), "X-Team-ID": element("team").value };
  await call("POST", "/desktop/pair/confirm", body, headers);
  show("done");
  // What is left of the sign-in ends by itself if this does not arrive.
  const { refresh_token } = tokens;
  tokens = null;
  await call("POST", "/auth/logout", { refresh_token }).catch(() => {});
});

/** The identity provider leads back to this page, which then no longer knows its query. */
element("oidc").addEventListener("click", () => {
  const kept = { code: element("code").value, name: element("device-name").value };
  sessionStorage.setItem(KEPT, JSON.stringify(kept));
  location.assign("/api/v1/auth/oidc/start?pair");
});

function fill(code, name) {
  element("code").value = code ?? "";
  element("device-name").value = name ?? "";
}

function begin() {
  const { oidc, accessToken, refreshToken } = document.body.dataset;
  element("oidc").hidden = oidc !== "true";
  if (accessToken === "") {
    const query = new URLSearchParams(location.search);
    fill(query.get("code"), query.get("name"));
    show("sign-in");
    return;
  }
  delete document.body.dataset.accessToken;
  delete document.body.dataset.refreshToken;
  // The provider's code in the address is spent.
  history.replaceState(null, "", "/pair");
  const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "{}");
  sessionStorage.removeItem(KEPT);
  fill(kept.code, kept.name);
  signedIn({ access_token: accessToken, refresh_token: refreshToken }).catch(tell);
}

begin();
