// Api: requests to the service, its errors as one class, and the token, which stays in this tab and in no address.

const KEY = "leukoscope-token";

export class Problem extends Error {
  constructor(status, { what, got, expected, todo }) {
    const sides = [got && `got ${got}`, expected && `expected ${expected}`].filter(Boolean).join(", ");
    super(what + (sides ? `: ${sides}` : "") + (todo ? ` (${todo})` : ""));
    this.status = status;
  }
}

let asking = null; // one dialog, however many requests need it

function login(wrong) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("login");
    const form = document.getElementById("login-form");
    const problem = document.getElementById("login-problem");
    const refuse = () => (problem.textContent = "That token is not accepted.");
    problem.textContent = "";
    if (wrong) refuse();
    form.onsubmit = (event) => {
      event.preventDefault();
      const token = form.elements.token.value.trim();
      if (!/^[\x21-\x7e]+$/.test(token)) return refuse(); // no header can hold it
      sessionStorage.setItem(KEY, token);
      form.reset();
      asking = null;
      dialog.close();
      resolve();
    };
    dialog.onclose = () => asking && dialog.showModal(); // Escape: nothing can be had without it
    dialog.showModal();
  });
  return asking;
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

// Ask the service; waits for its turn where the service is busy, and for the token where it wants one.
export async function ask(path, options = {}) {
  for (let tries = 0; ; ) {
    const token = sessionStorage.getItem(KEY);
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    let response;
    try {
      response = await fetch(path, { ...options, headers, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, { what: "the service does not answer", todo: "is it running?" });
    }
    if (response.status === 401) {
      if (sessionStorage.getItem(KEY) === token) await login(Boolean(token));
    } else if (response.status === 429 && tries++ < 20) {
      await pause(Number(response.headers.get("Retry-After")) || 1);
      options.signal?.throwIfAborted();
    } else if (response.ok) {
      return response;
    } else {
      const said = await response.json().catch(() => ({}));
      throw new Problem(response.status, said.error ?? { what: `the service answered ${response.status}` });
    }
  }
}

export const json = async (path, options) => (await ask(path, options)).json();
export const blob = async (path, options) => (await ask(path, options)).blob();
export const bitmap = async (path, options) => createImageBitmap(await blob(path, options));
