// Uploads with progress and live events, for Rindle's routes: an ES module and the global `Rindle`.

const HERE = new URL(".", import.meta.url).href.slice(0, -1);
const PAUSES_MS = [1000, 2000, 4000];
const PARALLEL_PARTS = 4;
const TERMINAL = {
  asset: ["ready", "degraded", "quarantined", "deleted"],
  upload_session: ["completed", "aborted", "expired", "failed"],
  provider_asset: ["ready", "errored", "deleted"],
};
// EventSource delivers only types with a listener.
const SESSION = "initialized signed uploading completed cancelled expired failed".split(" ");
const VARIANT = "started progress ready failed cancelled".split(" ");
const PROVIDER = "created ready errored deleted".split(" ");
const TYPES = ["snapshot", "reset", "asset_state_changed"].concat(
  VARIANT.map((name) => `variant_${name}`),
  SESSION.map((name) => `upload_session_${name}`),
  PROVIDER.map((name) => `provider_asset_${name}`),
);

/** `code` is the code of the server, or `network`. `status` 0: no answer. */
export class RindleError extends Error {
  constructor(code, status = 0, { message = code, detail = {} } = {}) {
    super(message);
    Object.assign(this, { code, status, detail });
  }
}

const isTransient = (status) => !status || status === 429 || status >= 500;

async function refusal(answer) {
  const { error } = await answer.json().catch(() => ({}));
  return new RindleError(error?.code ?? "unexpected", answer.status, error);
}

async function call(method, url, body) {
  const headers = { "Content-Type": "application/json", "X-Rindle": "1" }; // other sites cannot send this
  const answer = await fetch(url, { method, headers, body: body && JSON.stringify(body) }).catch(() => {
    throw new RindleError("network");
  });
  if (!answer.ok) throw await refusal(answer);
  return answer.json();
}

/** Retry transient errors after a pause, and once at once if `fix` returns a promise. */
async function insist(signal, work, fix) {
  for (let tries = 0, fixed; ; ) {
    signal.throwIfAborted();
    try {
      return await work();
    } catch (error) {
      const fixing = !fixed && (fixed = fix?.(error));
      if (!fixing && (tries === PAUSES_MS.length || !isTransient(error.status))) throw error;
      await (fixing || new Promise((wake) => setTimeout(wake, PAUSES_MS[tries++])));
    }
  }
}

/** Read, write or (`null`) forget an unfinished upload; pages without storage cannot continue one. */
function memo(key, id) {
  try {
    if (id === undefined) return localStorage.getItem(key);
    id ? localStorage.setItem(key, id) : localStorage.removeItem(key);
  } catch {}
}

/** Send a file or a part of it with exactly the signed headers. */
const put = ({ method, url, headers }, file, onSent, signal) =>
  new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch reports no upload progress
    request.open(method, url);
    for (const header of Object.entries(headers)) request.setRequestHeader(...header);
    request.upload.onprogress = ({ loaded }) => onSent(loaded);
    request.onerror = () => reject(new RindleError("network"));
    request.onload = () => {
      const { status } = request;
      // 412: the object exists, an earlier answer was lost.
      if ((status >= 200 && status < 300) || status === 412) return resolve();
      const code = { 403: "unauthorized", 413: "max_bytes_exceeded" }[status];
      reject(new RindleError(code ?? `storage_${isTransient(status) ? "transient" : "permanent"}`, status));
    };
    signal.addEventListener("abort", () => request.abort());
    request.send(file.slice()); // without its type, which would be an unsigned header
  });

/**
 * Upload a file to the store. Returns `done`, a promise of `{assetId, sessionId, asset}`, and `abort()`. The strategy
 * `multipart` sends parts, and continues the unfinished upload of the same file, also after a reload.
 */
export function upload(file, { base = HERE, profile, strategy = "presigned_put", onProgress, onState } = {}) {
  const control = new AbortController();
  const { signal } = control;
  const total = file.size;
  const inParts = strategy === "multipart";
  const key = ["rindle", base, profile, file.name, total, file.lastModified].join("|");
  let session, grant, path, multipart;
  const emit = (state) => onState?.({ state, sessionId: session?.id, assetId: session?.asset_id });
  const show = (loaded, percent) => onProgress?.({ loaded, total, percent });
  const sent = (loaded) => show(loaded, Math.min(99, Math.floor((100 * loaded) / total) || 0));
  const cancel = () => {
    memo(key, null);
    return path && call("DELETE", path).catch(() => {}); // an upload that is not cancelled expires
  };

  const renew = async () => (grant = (await call("POST", `${path}/sign`)).upload);
  const ended = (reason) =>
    new Promise((resolve, reject) => {
      const next = (type, { state }) =>
        type === "error" ? reject(reason) : TERMINAL.upload_session.includes(state) && resolve();
      signal.addEventListener("abort", subscribe("upload_session", session.id, next, { base, until: "terminal" }));
    });

  const unfinished = async () => {
    const id = inParts && memo(key);
    const look = () => call("GET", `${base}/uploads/${id}`);
    const found = id && (await insist(signal, look).catch((error) => {
      if (isTransient(error.status)) throw error;
    }));
    return found && !["aborted", "expired", "failed"].includes(found.session.state) && found;
  };

  const sendWhole = () =>
    // 403: the URL has expired.
    insist(signal, () => put(grant, file, sent, signal), ({ status }) => status === 403 && renew());

  const sendParts = async () => {
    const size = multipart.part_size;
    const lengths = Array.from({ length: Math.ceil(total / size) || 1 }, (_, n) => Math.min(size, total - n * size));
    const loaded = lengths.map(() => 0);
    for (const part of await insist(signal, () => call("GET", `${path}/parts`))) {
      if (part.size === lengths[part.part_number - 1]) loaded[part.part_number - 1] = part.size;
    }
    const missing = [...lengths.keys()].filter((n) => !loaded[n]);
    const stop = new AbortController();
    signal.addEventListener("abort", () => stop.abort());
    const note = (n, bytes) => {
      loaded[n] = bytes;
      sent(loaded.reduce((sum, one) => sum + one, 0));
    };
    const send = async (n) => {
      const grant = await call("POST", `${path}/parts/${n + 1}/sign`);
      await put(grant, file.slice(n * size, n * size + lengths[n]), (bytes) => note(n, bytes), stop.signal);
      note(n, lengths[n]);
    };
    const work = async () => {
      for (let n; (n = missing.shift()) !== undefined; ) {
        await insist(stop.signal, () => send(n), ({ status }) => status === 403 && Promise.resolve());
      }
    };
    await Promise.all(Array.from({ length: PARALLEL_PARTS }, work)).finally(() => stop.abort());
  };

  const run = async () => {
    const wanted = { profile, filename: file.name, size: total, content_type: file.type || null, strategy };
    const opened = (await unfinished()) || (await call("POST", `${base}/uploads`, wanted));
    ({ session, upload: grant, multipart } = opened);
    path = `${base}/uploads/${session.id}`;
    if (signal.aborted) return cancel();
    if (inParts) memo(key, session.id);
    emit("uploading");
    const give = (error) => {
      if (!inParts || !isTransient(error.status)) cancel(); // parts that were sent are not lost with the connection
      throw error;
    };
    if (inParts ? multipart : grant) await (inParts ? sendParts : sendWhole)().catch(give);
    emit("verifying");
    // If the store does not answer, the server continues by itself.
    const wait = (error) => error.code === "storage_transient" && ended(error);
    const finish = () => call("POST", `${path}/${inParts ? "complete" : "verify"}`);
    const { asset } = await insist(signal, finish, wait).catch((error) => {
      if (!isTransient(error.status)) memo(key, null);
      throw error;
    });
    memo(key, null);
    path = null;
    show(total, 100);
    return { assetId: asset.id, sessionId: session.id, asset };
  };

  const done = new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(new RindleError("upload_cancelled")));
    run().then(resolve, reject);
  });
  done.then(() => emit("completed"), () => emit(signal.aborted ? "aborted" : "failed"));
  return { done, abort: () => (control.abort(), cancel()) };
}

/** Call `handler(type, payload, eventId)`, first with a snapshot, without a gap. Returns a function to end it. */
export function subscribe(scope, id, handler, { base = HERE, until, ticket } = {}) {
  let source, timer, last;
  const off = () => {
    clearTimeout(timer);
    source.close();
    source.off = true;
  };
  const address = () => {
    const query = Object.entries({ scope, id, snapshot: 1, until, ticket, last_event_id: last });
    return `${base}/events?${new URLSearchParams(query.filter(([, value]) => value))}`;
  };
  const next = ({ type, data, lastEventId }) => {
    const payload = JSON.parse(data);
    last = lastEventId;
    const isOwn = type === "snapshot" || type.startsWith(scope);
    if (until && isOwn && TERMINAL[scope]?.includes(payload.state)) off();
    handler(type, payload, last);
  };
  // The browser reconnects by itself, but does not report a refusal.
  const check = async () => {
    const control = new AbortController();
    const answer = await fetch(address(), { signal: control.signal }).catch(() => ({}));
    if (!source.off && !answer.ok && !isTransient(answer.status)) {
      off();
      handler("error", await refusal(answer));
    }
    control.abort();
    if (!source.off) timer = setTimeout(open, 4000);
  };
  const open = () => {
    source = new EventSource(address());
    for (const type of TYPES) source.addEventListener(type, next);
    source.onerror = () => source.readyState === 2 && check();
  };
  open();
  return off;
}

document.addEventListener("change", ({ target: input }) => {
  const { rindleBase: base, rindleProfile: profile, rindleStrategy: strategy } = input.dataset;
  const { rindleProgress, rindleTarget } = input.dataset;
  if (!profile || !input.files?.length) return;
  const set = (selector, values) => selector && Object.assign(document.querySelector(selector), values);
  const fire = (name, detail) => input.dispatchEvent(new CustomEvent(`rindle:${name}`, { bubbles: true, detail }));
  const next = (type, payload) => (type === "error" ? fire(type, payload) : fire("event", { type, payload }));
  const onProgress = (progress) => {
    set(rindleProgress, { max: 100, value: progress.percent });
    fire("progress", progress);
  };
  const complete = (found) => {
    set(rindleTarget, { value: found.assetId });
    fire("complete", found);
    subscribe("asset", found.assetId, next, { base, until: "terminal" });
  };
  input.rindleUpload?.abort();
  set(rindleTarget, { value: "" });
  input.rindleUpload = upload(input.files[0], { base, profile, strategy, onProgress });
  input.rindleUpload.done.then(complete, (error) => fire("error", error));
});

export default globalThis.Rindle = { upload, subscribe, RindleError };
