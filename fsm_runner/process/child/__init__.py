"""One child process: `spawn` starts it, `output` and `pipes` connect its streams, `child` supervises it."""
