//! The Lua scripts and their hashes.

use redis::{Cmd, Script, cmd};

pub(super) struct Scripts {
    pub(super) publish: Lua,
    pub(super) publish_once: Lua,
    pub(super) save_sent: Lua,
}

pub(super) struct Lua {
    body: &'static str,
    hash: String,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            publish: Lua::new(include_str!("scripts/publish.lua")),
            publish_once: Lua::new(include_str!("scripts/publish_once.lua")),
            save_sent: Lua::new(include_str!("scripts/save_sent.lua")),
        }
    }

    /// Makes a node know all of them.
    pub(super) fn load() -> redis::Pipeline {
        let scripts = Self::new();
        let mut pipeline = redis::pipe();
        for script in [scripts.publish, scripts.publish_once, scripts.save_sent] {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(script.body);
        }
        pipeline
    }
}

impl Lua {
    fn new(body: &'static str) -> Self {
        Self { body, hash: Script::new(body).get_hash().to_owned() }
    }

    /// The start of a call; the number of keys, the keys and the arguments follow.
    pub(super) fn by_hash(&self) -> Cmd {
        let mut call = cmd("EVALSHA");
        call.arg(&self.hash);
        call
    }

    /// The same for a node that lost it (`SCRIPT FLUSH`): it knows it again afterwards.
    pub(super) fn by_body(&self) -> Cmd {
        let mut call = cmd("EVAL");
        call.arg(self.body);
        call
    }
}
