//! The GPU device: what it has, whether it is still there, and reading back from it.

use std::sync::Arc;
use std::sync::Mutex;

use futures_channel::oneshot;
use serde::Serialize;
#[cfg(target_arch = "wasm32")]
use {
    std::future::{Future, poll_fn},
    std::pin::Pin,
    std::task::Poll,
    wasm_bindgen::{JsCast, JsValue},
    wasm_bindgen_futures::JsFuture,
};

use crate::error::{Error, Result};

/// What the adapter says of itself.
#[derive(Debug, Clone, Serialize)]
pub struct AdapterInfo {
    pub name: String,
    pub api: String,
    pub f16: bool,
    pub subgroups: bool,
    /// Whether products split columns over many threads, as suits a GPU that runs thousands at once.
    pub wide: bool,
    /// Whether products of many tokens are packed dots of bytes (`dot4I8Packed`).
    pub packed: bool,
}

/// Which optional features may be used where the adapter has them. None is ever required.
#[derive(Debug, Clone, Copy)]
pub struct DeviceOptions {
    pub f16: bool,
    pub subgroups: bool,
    /// By default, where the adapter's subgroups are of 16 threads or more: software adapters have 4 or 8.
    pub wide: Option<bool>,
    /// By default, on a `wide` GPU whose shading language has them, but for Metal, which has no instruction for them.
    pub packed: Option<bool>,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        DeviceOptions { f16: true, subgroups: true, wide: None, packed: None }
    }
}

/// A device with its queue. Clones share it.
#[derive(Clone)]
pub struct Device {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    /// The largest buffer a shader may read, bytes.
    pub(super) max_buffer: u64,
    info: AdapterInfo,
    lost: Arc<Mutex<Option<String>>>,
}

impl Device {
    /// Opens the system's preferred adapter.
    pub async fn new(options: DeviceOptions) -> Result<Self> {
        let unavailable = |problem: String| Error::GpuUnavailable { problem };
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = instance
            .request_adapter(&wgpu::RequestAdapterOptions {
                power_preference: wgpu::PowerPreference::HighPerformance,
                ..Default::default()
            })
            .await
            .map_err(|error| unavailable(format!("no adapter: {error}")))?;
        let has = |wanted: bool, feature: wgpu::Features| wanted && adapter.features().contains(feature);
        let f16 = has(options.f16, wgpu::Features::SHADER_F16);
        let subgroups = has(options.subgroups, wgpu::Features::SUBGROUP);
        let mut required_features = wgpu::Features::empty();
        required_features.set(wgpu::Features::SHADER_F16, f16);
        required_features.set(wgpu::Features::SUBGROUP, subgroups);
        let limits = adapter.limits();
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("slm-guardian"),
                required_features,
                required_limits: limits.clone(),
                ..Default::default()
            })
            .await
            .map_err(|error| unavailable(error.to_string()))?;
        let lost = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&lost);
        device.set_device_lost_callback(move |reason, message| {
            if let Ok(mut slot) = slot.lock() {
                slot.get_or_insert(format!("{reason:?} {message}").trim().to_owned());
            }
        });
        let described = adapter.get_info();
        let wide = options.wide.unwrap_or(described.subgroup_max_size >= 16);
        let language = instance.wgsl_language_features();
        let packed = language.contains(wgpu::WgslLanguageFeatures::Packed4x8IntegerDotProduct)
            && options.packed.unwrap_or_else(|| wide && !on_metal(described.backend));
        let info =
            AdapterInfo { name: described.name, api: described.backend.to_string(), f16, subgroups, wide, packed };
        let max_buffer = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        Ok(Device { device, queue, max_buffer, info, lost })
    }

    pub fn info(&self) -> &AdapterInfo {
        &self.info
    }

    /// What a read-back sends. Firefox looks ten times a second whether work is done, and whenever some is submitted: so that a
    /// screening does not take a tenth of a second there, nothing is, until an answer comes.
    #[cfg(target_arch = "wasm32")]
    async fn nudged<T>(&self, mut receiver: oneshot::Receiver<T>) -> std::result::Result<T, oneshot::Canceled> {
        let mut waited = 0;
        loop {
            // The longer it takes anyway, the less often.
            let milliseconds = (waited / 4).clamp(2, 100);
            waited += milliseconds;
            let mut pause = pause(milliseconds);
            let received = poll_fn(|context| match Pin::new(&mut receiver).poll(context) {
                Poll::Ready(received) => Poll::Ready(Some(received)),
                Poll::Pending => Pin::new(&mut pause).poll(context).map(|_| None),
            });
            if let Some(received) = received.await {
                return received;
            }
            self.queue.submit([]);
        }
    }

    /// An error once the device is gone.
    pub(super) fn check(&self) -> Result<()> {
        match self.lost.lock().ok().and_then(|slot| slot.clone()) {
            Some(problem) => Err(Error::DeviceLost { problem }),
            None => Ok(()),
        }
    }

    /// Gives the device up. Every later call fails with [`Error::DeviceLost`]; tests use it to lose a device.
    pub fn destroy(&self) {
        self.device.destroy();
        if let Ok(mut slot) = self.lost.lock() {
            slot.get_or_insert("destroyed".to_owned());
        }
    }

    /// Runs `work` and turns what the GPU refuses in it (a shader that does not compile, memory that is not there) into
    /// an error. On the web such failures are silent otherwise, and a broken pipeline computes zeros.
    pub(super) async fn scoped<T>(&self, what: &str, work: impl FnOnce() -> T) -> Result<T> {
        // The guards are popped before anything is awaited: they may not cross threads.
        let (value, invalid, memory) = {
            let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
            let invalid = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
            let value = work();
            let invalid = invalid.pop();
            (value, invalid, memory.pop())
        };
        let invalid = invalid.await;
        match invalid.or(memory.await) {
            None => Ok(value),
            Some(error) => {
                self.check()?;
                Err(Error::GpuUnavailable { problem: format!("{what}: {error}") })
            }
        }
    }

    pub(super) fn buffer(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes.next_multiple_of(16).max(16),
            usage,
            mapped_at_creation: false,
        })
    }

    /// The first `words` u32 of a `MAP_READ` buffer, once the GPU has done the submission that writes it, by default the
    /// latest one.
    #[cfg_attr(target_arch = "wasm32", allow(unused_variables))] // There the event loop waits.
    pub(super) async fn read(
        &self,
        buffer: &wgpu::Buffer,
        words: usize,
        submission: Option<wgpu::SubmissionIndex>,
    ) -> Result<Vec<u32>> {
        let (sender, receiver) = oneshot::channel();
        let size = words as u64 * 4;
        buffer.map_async(wgpu::MapMode::Read, ..size, move |result| {
            let _ = sender.send(result);
        });
        // Natively someone must wait; in the browser the event loop does.
        #[cfg(not(target_arch = "wasm32"))]
        if let Err(error) = self.device.poll(wgpu::PollType::Wait { submission_index: submission, timeout: None }) {
            self.check()?;
            return Err(Error::internal(error));
        }
        let lost = |problem: String| Error::DeviceLost { problem };
        #[cfg(target_arch = "wasm32")]
        let received = self.nudged(receiver).await;
        #[cfg(not(target_arch = "wasm32"))]
        let received = receiver.await;
        match received {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(self.check().err().unwrap_or_else(|| lost(error.to_string()))),
            Err(_) => return Err(self.check().err().unwrap_or_else(|| lost("a read-back never came".into()))),
        }
        self.check()?;
        let view = buffer.get_mapped_range(..size).map_err(Error::internal)?;
        let words = bytemuck::pod_collect_to_vec(&view[..]);
        drop(view);
        buffer.unmap();
        Ok(words)
    }
}

/// Whether a browser's WebGPU stands on Metal: on Apple's systems all do. (Not all of them name the GPU's maker.)
#[cfg(target_arch = "wasm32")]
fn on_metal(_: wgpu::Backend) -> bool {
    let of = |value: &JsValue, name: &str| js_sys::Reflect::get(value, &name.into()).unwrap_or_default();
    let platform = of(&of(&js_sys::global(), "navigator"), "platform").as_string().unwrap_or_default();
    platform.starts_with("Mac") || platform.starts_with("iP")
}

#[cfg(not(target_arch = "wasm32"))]
fn on_metal(backend: wgpu::Backend) -> bool {
    backend == wgpu::Backend::Metal
}

/// A page's and a worker's `setTimeout`; where there is none, it never ends.
#[cfg(target_arch = "wasm32")]
fn pause(milliseconds: u32) -> JsFuture {
    let mut wait = |resolve: js_sys::Function, _| {
        let set_timeout = js_sys::Reflect::get(&js_sys::global(), &"setTimeout".into()).unwrap_or_default();
        if let Some(set_timeout) = set_timeout.dyn_ref::<js_sys::Function>() {
            let _ = set_timeout.call2(&JsValue::NULL, &resolve, &milliseconds.into());
        }
    };
    js_sys::Promise::new(&mut wait).into()
}
