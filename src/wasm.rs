//! The wasm-bindgen face: what the package's worker calls. No logic of its own.

use wasm_bindgen::prelude::*;

use crate::engine::Sampling;
use crate::error::Error;
use crate::guardian::{Guardian, Message, ReplyOptions, ScreenOptions};
use crate::loader::{Loader, ShardCheck, Target};
use crate::{engine::Engine, gpu};

#[wasm_bindgen(start)]
fn start() {
    console_error_panic_hook::set_once();
}

/// A JavaScript `Error` with the crate's stable `code`.
impl From<Error> for JsValue {
    fn from(error: Error) -> Self {
        let object = js_sys::Error::new(&error.to_string());
        // Setting a property of a fresh object can't fail.
        let _ = js_sys::Reflect::set(&object, &"code".into(), &error.code().into());
        object.into()
    }
}

/// A monotonic clock, milliseconds: in a page, a worker or Node.
pub(crate) fn now_ms() -> f64 {
    js_sys::Reflect::get(&js_sys::global(), &"performance".into())
        .ok()
        .and_then(|performance| performance.dyn_into::<web_sys::Performance>().ok())
        .map_or(0.0, |performance| performance.now())
}

fn from_js<T: serde::de::DeserializeOwned>(value: JsValue, what: &str) -> Result<T, JsValue> {
    serde_wasm_bindgen::from_value(value)
        .map_err(|error| Error::Argument { problem: format!("{what}: {error}") }.into())
}

fn to_js<T: serde::Serialize>(value: &T) -> Result<JsValue, JsValue> {
    value.serialize(&serde_wasm_bindgen::Serializer::json_compatible()).map_err(|error| Error::internal(error).into())
}

/// Takes the model file as it comes from the network.
#[wasm_bindgen(js_name = Loader)]
pub struct WasmLoader {
    inner: Option<Loader>,
    check: Option<ShardCheck>,
    adapter: Option<gpu::AdapterInfo>,
}

#[wasm_bindgen(js_class = Loader)]
impl WasmLoader {
    /// A loader for `"gpu"` or `"cpu"`.
    pub async fn create(backend: String) -> Result<WasmLoader, JsValue> {
        let (target, adapter) = match backend.as_str() {
            "cpu" => (Target::Cpu, None),
            "gpu" => {
                let device = gpu::Device::new(gpu::DeviceOptions::default()).await?;
                let adapter = device.info().clone();
                (Target::Gpu(device), Some(adapter))
            }
            _ => return Err(Error::Argument { problem: format!("no backend is named {backend:?}") }.into()),
        };
        Ok(WasmLoader { inner: Some(Loader::new(target)), check: None, adapter })
    }

    /// A shard begins; its bytes are checked against the manifest.
    #[wasm_bindgen(js_name = beginShard)]
    pub fn begin_shard(&mut self, file: String, bytes: f64, sha256: String) {
        self.check = Some(ShardCheck::new(file, bytes as u64, &sha256));
    }

    pub fn push(&mut self, chunk: &[u8]) -> Result<(), JsValue> {
        if let Some(check) = &mut self.check {
            check.update(chunk);
        }
        Ok(self.loader()?.push(chunk)?)
    }

    /// Lets the GPU take what has arrived.
    pub async fn settle(&mut self) -> Result<(), JsValue> {
        Ok(self.loader()?.settle().await?)
    }

    #[wasm_bindgen(js_name = endShard)]
    pub fn end_shard(&mut self) -> Result<(), JsValue> {
        Ok(self.check.take().map_or(Ok(()), ShardCheck::finish)?)
    }

    /// The guardian, once every byte is there and the engine has given the known answers.
    pub async fn finish(&mut self) -> Result<WasmGuardian, JsValue> {
        let loader = self.inner.take().ok_or_else(|| Error::internal("the loader has finished"))?;
        let (engine, gguf) = loader.finish().await?;
        let mut inner = Guardian::new(engine, &gguf)?;
        inner.self_test().await?;
        Ok(WasmGuardian { inner, adapter: self.adapter.take() })
    }
}

impl WasmLoader {
    fn loader(&mut self) -> Result<&mut Loader, Error> {
        self.inner.as_mut().ok_or_else(|| Error::internal("the loader has finished"))
    }
}

/// A loaded guardian.
#[wasm_bindgen(js_name = WasmGuardian)]
pub struct WasmGuardian {
    inner: Guardian,
    adapter: Option<gpu::AdapterInfo>,
}

#[derive(serde::Deserialize)]
struct JsScreenOptions {
    preset: Option<String>,
    threshold: Option<f32>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsReplyOptions {
    #[serde(default)]
    force: bool,
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    min_p: Option<f32>,
    seed: Option<u32>,
}

fn screen_options(options: JsValue) -> Result<ScreenOptions, JsValue> {
    let JsScreenOptions { preset, threshold } = from_js(options, "screen options")?;
    let preset = preset.as_deref().map(str::parse).transpose()?.unwrap_or_default();
    Ok(ScreenOptions { preset, threshold })
}

#[wasm_bindgen(js_class = WasmGuardian)]
impl WasmGuardian {
    pub async fn screen(&mut self, messages: JsValue, options: JsValue) -> Result<JsValue, JsValue> {
        let messages: Vec<Message> = from_js(messages, "messages")?;
        to_js(&self.inner.screen(&messages, screen_options(options)?).await?)
    }

    /// Screens many at once: for each of the conversations a verdict, or the error of that one.
    #[wasm_bindgen(js_name = screenBatch)]
    pub async fn screen_batch(&mut self, conversations: JsValue, options: JsValue) -> Result<js_sys::Array, JsValue> {
        let conversations: Vec<Vec<Message>> = from_js(conversations, "conversations")?;
        let options = screen_options(options)?;
        let inputs: Vec<_> = conversations.iter().map(|messages| (messages.as_slice(), options)).collect();
        let verdicts = self.inner.screen_batch(&inputs).await?;
        verdicts
            .into_iter()
            .map(|verdict| verdict.map_or_else(|error| Ok(error.into()), |verdict| to_js(&verdict)))
            .collect()
    }

    /// Opens a reply.
    #[wasm_bindgen(js_name = replyStart)]
    pub fn reply_start(&mut self, messages: JsValue, options: JsValue) -> Result<(), JsValue> {
        let messages: Vec<Message> = from_js(messages, "messages")?;
        let options: JsReplyOptions = from_js(options, "reply options")?;
        let sampling = match options.temperature {
            None | Some(0.0) => Sampling::Greedy,
            Some(temperature) => {
                Sampling::Random { temperature, min_p: options.min_p.unwrap_or(0.05), seed: options.seed.unwrap_or(0) }
            }
        };
        let max_tokens = options.max_tokens.unwrap_or(ReplyOptions::default().max_tokens);
        Ok(self.inner.reply_start(&messages, ReplyOptions { force: options.force, max_tokens, sampling })?)
    }

    /// The next piece of the open reply; `undefined` once it has ended.
    #[wasm_bindgen(js_name = replyNext)]
    pub async fn reply_next(&mut self) -> Result<Option<String>, JsValue> {
        Ok(self.inner.reply_next().await?)
    }

    #[wasm_bindgen(js_name = replyCancel)]
    pub fn reply_cancel(&mut self) {
        self.inner.reply_cancel();
    }

    pub fn info(&self) -> Result<JsValue, JsValue> {
        let info = to_js(&self.inner.info())?;
        js_sys::Reflect::set(&info, &"adapter".into(), &to_js(&self.adapter)?)?;
        Ok(info)
    }

    /// Gives the GPU's memory back at once; dropping it would wait for the garbage collector. A call after it fails with
    /// `device-lost`.
    #[wasm_bindgen(js_name = releaseDevice)]
    pub fn release_device(&mut self) {
        if let Engine::Gpu(model) = self.inner.engine() {
            model.destroy();
        }
    }
}
