const form = document.querySelector("form");

async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
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
    const ticket = await post("/uploads", { filename: file.name, size: file.size });
    // Send exactly the signed headers; slice() removes the type that the browser would add.
    const sent = await fetch(ticket.url, { method: ticket.method, headers: ticket.headers, body: file.slice() });
    if (!sent.ok) throw new Error(`the store answered ${sent.status}`);
    await post(`/uploads/${ticket.id}/done`, {});
    location.reload();
  } catch (error) {
    form.querySelector("output").textContent = error.message;
  }
});
