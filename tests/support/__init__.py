"""What the integration tests share: a runner, a coordinator, and a proxy between them that causes trouble."""
