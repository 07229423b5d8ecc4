const form = document.querySelector("form");

async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error?.message ?? "something went wrong");
  return told;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const file = form.elements.file.files[0];
  try {
    const ticket = await post("/uploads", { filename: file.name, size: file.size });
    // Exactly the headers that were signed, and no type of the browser's own: hence the slice.
    const sent = await fetch(ticket.url, { method: ticket.method, headers: ticket.headers, body: file.slice() });
    if (!sent.ok) throw new Error(`the store answered ${sent.status}`);
    await post(`/uploads/${ticket.id}/done`, {});
    location.reload();
  } catch (error) {
    form.querySelector("output").textContent = error.message;
  }
});
