"""One child process: `spawn` starts it, `pipes` connects its streams, `child` supervises it."""
