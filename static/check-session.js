// OpenID Connect Session Management 1.0 section 3.2: tells an application's page whether the sign-in in this browser is still
// the one that its `session_state` was made of. Whoever asks must be of the origin that frames us, and hears one word.
"use strict";

const framedBy = location.ancestorOrigins?.[0] ?? (document.referrer && new URL(document.referrer).origin);
const cookie = location.protocol === "https:" ? "__Host-cs_state=" : "cs_state=";

async function judge(message, origin) {
  const [client, sessionState, ...more] = typeof message === "string" ? message.split(" ") : [];
  const salt = sessionState?.split(".")[1];
  const state = document.cookie.split("; ").find((pair) => pair.startsWith(cookie))?.slice(cookie.length);
  // A browser that hides our cookies from frames has nothing to say; "changed" would send its people to sign in for ever.
  if (!client || !salt || more.length || !state) return "error";
  const text = new TextEncoder().encode(`${client} ${origin} ${state} ${salt}`);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", text));
  const hash = btoa(String.fromCharCode(...digest)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return `${hash}.${salt}` === sessionState ? "unchanged" : "changed";
}

addEventListener("message", async ({ data, origin, source }) => {
  if (parent === window || !source || origin === "null" || (framedBy && origin !== framedBy)) return;
  source.postMessage(await judge(data, origin).catch(() => "error"), origin);
});
