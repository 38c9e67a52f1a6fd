"""``clipseek info``."""

from clipseek.cli.session import Session, command


@command
def info(session: Session) -> None:
    """Show what the server is: its models, its index and its limits.

    Try:

      clipseek info --server search.example.org:50051
    """
    output = session.output
    with session.client() as client:
        server = client.info()
        health = client.health()
    if session.json:
        output.value({"health": health, "server": server})
        return
    index = f"{server.index.engine} {server.index.engine_version}".strip()
    facts: dict[str, object] = {
        "server": session.server,
        "version": server.version,
        "health": health.replace("_", " "),
        "index": f"{index}, {server.index.index_type} {dict(server.index.index_params) or ''}".strip(),
    }
    for number, model in enumerate(server.models):
        name = "model" if number else "model (default)"
        providers = ", ".join(model.vision_providers)
        facts[name if number < 2 else f"model {number}"] = (
            f"{model.name}, {model.precision}, {model.dimension} dimensions, {providers}\n{model.description}".strip()
        )
    facts |= {name.replace("_", " "): f"{limit:,}" for name, limit in vars(server.limits).items()}
    output.facts(facts)
