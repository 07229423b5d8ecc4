const form = document.querySelector("form");

async function call(method, path, body) {
  const answer = await fetch(path, {
    method,
    headers: { "Content-Type": "application/json", "X-Rindle": "1" }, // the header shows that the request comes from this site
    body: JSON.stringify(body),
  });
  const result = await answer.json();
  if (!answer.ok) throw new Error(result.error?.message ?? "something went wrong");
  return result;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const file = form.elements.file.files[0];
  try {
    const wanted = { profile: "photo", filename: file.name, size: file.size };
    const { session, upload } = await call("POST", "/media/uploads", wanted);
    const sent = await fetch(upload.url, { method: upload.method, headers: upload.headers, body: file.slice() });
    if (!sent.ok) throw new Error(`the store answered ${sent.status}`);
    const { asset } = await call("POST", `/media/uploads/${session.id}/verify`);
    await call("PUT", "/photo", { asset_id: asset.id });
    location.reload();
  } catch (error) {
    form.querySelector("output").textContent = error.message;
  }
});
