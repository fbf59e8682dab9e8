//! GGUF: header, metadata and tensor index, from the first bytes of the file. Tensor bytes are never copied here:
//! the index says where they lie, and the loader hands them on as they come.
//!
//! candle-core parses; before it does, `scan` walks the same bytes without allocating, so that a hostile length
//! or count is refused and a header that has not wholly arrived is told apart from a damaged one.

use std::collections::HashMap;
use std::io::Cursor;

use candle_core::quantized::gguf_file::{Content, Value};

use crate::error::{Error, Result};
use crate::quant::Format;

/// Where one tensor lies in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorEntry {
    pub name: String,
    pub format: Format,
    /// Output rows; 1 for a vector.
    pub rows: usize,
    /// Elements per row (the matrix is row-major).
    pub cols: usize,
    /// First byte, counted from the start of the file.
    pub offset: u64,
    pub bytes: u64,
}

/// A parsed header.
#[derive(Debug)]
pub struct Gguf {
    pub metadata: HashMap<String, Value>,
    /// Sorted by offset; they do not overlap.
    pub tensors: Vec<TensorEntry>,
    /// Bytes of the whole file, as the index implies.
    pub file_bytes: u64,
}

/// Limits that no real file of this engine's kind comes near.
const MAX_HEADER: usize = 64 << 20;
const MAX_TENSORS: u64 = 100_000;
const MAX_KEYS: u64 = 100_000;

impl Gguf {
    /// Parses the header from the file's first bytes. `Ok(None)`: more bytes are needed.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(header_bytes) = scan(bytes)? else {
            if bytes.len() > MAX_HEADER {
                return Err(Error::format("header", format!("longer than {MAX_HEADER} bytes")));
            }
            return Ok(None);
        };
        let content = Content::read(&mut Cursor::new(&bytes[..header_bytes]))
            .map_err(|error| Error::format("header", error.to_string()))?;
        let mut tensors = Vec::with_capacity(content.tensor_infos.len());
        for (name, info) in &content.tensor_infos {
            let place = || format!("tensor {name:?}");
            let format = Format::from_ggml(info.ggml_dtype).ok_or_else(|| {
                Error::unsupported(
                    place(),
                    format!("format {:?}; F32, F16, Q4_0, Q4_1, Q5_0 and Q8_0 can be run", info.ggml_dtype),
                )
            })?;
            let (rows, cols) = match *info.shape.dims() {
                [cols] => (1, cols),
                [rows, cols] => (rows, cols),
                _ => {
                    return Err(Error::unsupported(
                        place(),
                        format!("shape {:?}, want one or two dimensions", info.shape.dims()),
                    ));
                }
            };
            let row_bytes = format.row_bytes(cols).ok_or_else(|| {
                Error::format(place(), format!("rows of {cols} elements are no multiple of {}", format.block_len()))
            })?;
            let bytes = (rows as u64)
                .checked_mul(row_bytes as u64)
                .filter(|&bytes| bytes > 0 && bytes <= u32::MAX as u64)
                .ok_or_else(|| Error::format(place(), format!("{rows} x {cols} elements are empty or over 4 GiB")))?;
            let offset = content
                .tensor_data_offset
                .checked_add(info.offset)
                .filter(|offset| offset.checked_add(bytes).is_some())
                .ok_or_else(|| Error::format(place(), "its offset is beyond any file"))?;
            tensors.push(TensorEntry { name: name.clone(), format, rows, cols, offset, bytes });
        }
        tensors.sort_by_key(|tensor| tensor.offset);
        for pair in tensors.windows(2) {
            if pair[0].offset + pair[0].bytes > pair[1].offset {
                return Err(Error::format(
                    format!("tensor {:?}", pair[1].name),
                    format!("overlaps {:?}", pair[0].name),
                ));
            }
        }
        let file_bytes = tensors.last().map_or(content.tensor_data_offset, |tensor| tensor.offset + tensor.bytes);
        Ok(Some(Gguf { metadata: content.metadata, tensors, file_bytes }))
    }

    /// A metadata value that must be there.
    pub fn value(&self, key: &str) -> Result<&Value> {
        self.metadata.get(key).ok_or_else(|| Error::format(format!("key {key:?}"), "is missing"))
    }

    /// An unsigned integer of any width.
    pub fn unsigned(&self, key: &str) -> Result<usize> {
        as_unsigned(self.value(key)?).ok_or_else(|| Error::format(format!("key {key:?}"), "is no unsigned integer"))
    }

    /// A finite float of either width.
    pub fn float(&self, key: &str) -> Result<f32> {
        let value = match self.value(key)? {
            Value::F32(x) => *x,
            Value::F64(x) => *x as f32,
            _ => return Err(Error::format(format!("key {key:?}"), "is no float")),
        };
        if !value.is_finite() {
            return Err(Error::format(format!("key {key:?}"), "is not finite"));
        }
        Ok(value)
    }

    pub fn string(&self, key: &str) -> Result<&str> {
        match self.value(key)? {
            Value::String(text) => Ok(text),
            _ => Err(Error::format(format!("key {key:?}"), "is no string")),
        }
    }

    pub fn strings(&self, key: &str) -> Result<Vec<&str>> {
        self.array(key)?
            .iter()
            .map(|item| match item {
                Value::String(text) => Ok(text.as_str()),
                _ => Err(Error::format(format!("key {key:?}"), "is no array of strings")),
            })
            .collect()
    }

    pub fn array(&self, key: &str) -> Result<&[Value]> {
        match self.value(key)? {
            Value::Array(items) => Ok(items),
            _ => Err(Error::format(format!("key {key:?}"), "is no array")),
        }
    }

    /// The index of a tensor in [`Gguf::tensors`].
    pub fn find(&self, name: &str) -> Option<usize> {
        self.tensors.iter().position(|tensor| tensor.name == name)
    }
}

/// The value as an unsigned integer, if it is one.
pub fn as_unsigned(value: &Value) -> Option<usize> {
    match *value {
        Value::U8(x) => Some(x as usize),
        Value::U16(x) => Some(x as usize),
        Value::U32(x) => Some(x as usize),
        Value::U64(x) => usize::try_from(x).ok(),
        Value::I8(x) => usize::try_from(x).ok(),
        Value::I16(x) => usize::try_from(x).ok(),
        Value::I32(x) => usize::try_from(x).ok(),
        Value::I64(x) => usize::try_from(x).ok(),
        _ => None,
    }
}

/// Walks header, metadata and tensor index without allocating. The bytes they take (padding not counted), `None` if
/// `bytes` end before they do, or the error that makes the file unreadable.
fn scan(bytes: &[u8]) -> Result<Option<usize>> {
    let mut walk = Walk { bytes, at: 0 };
    match walk.header() {
        Ok(()) => Ok(Some(walk.at)),
        Err(Stop::More) => Ok(None),
        Err(Stop::Damaged(place, problem)) => Err(Error::format(place, problem)),
        Err(Stop::Unsupported(problem)) => Err(Error::unsupported("header", problem)),
    }
}

enum Stop {
    More,
    Damaged(String, String),
    Unsupported(String),
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    fn take(&mut self, count: u64) -> std::result::Result<&'a [u8], Stop> {
        let count = usize::try_from(count)
            .ok()
            .filter(|&count| count <= MAX_HEADER)
            .ok_or_else(|| Stop::Damaged(format!("header, byte {}", self.at), format!("a length of {count} bytes")))?;
        let taken = self.bytes.get(self.at..self.at + count).ok_or(Stop::More)?;
        self.at += count;
        Ok(taken)
    }

    fn u32(&mut self) -> std::result::Result<u32, Stop> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn u64(&mut self) -> std::result::Result<u64, Stop> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes")))
    }

    fn string(&mut self) -> std::result::Result<&'a [u8], Stop> {
        let length = self.u64()?;
        self.take(length)
    }

    fn header(&mut self) -> std::result::Result<(), Stop> {
        if self.take(4)? != b"GGUF" {
            return Err(Stop::Damaged("header".into(), "does not start with \"GGUF\"".into()));
        }
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(Stop::Unsupported(format!("GGUF version {version}, want 2 or 3")));
        }
        let (tensors, keys) = (self.u64()?, self.u64()?);
        if tensors > MAX_TENSORS || keys > MAX_KEYS {
            return Err(Stop::Damaged("header".into(), format!("{tensors} tensors and {keys} keys")));
        }
        for _ in 0..keys {
            let key = String::from_utf8_lossy(self.string()?).into_owned();
            let kind = self.u32()?;
            let start = self.at;
            self.value(&key, kind, 0)?;
            if key == "general.alignment" {
                // candle divides by it.
                if self.bytes[start..self.at].iter().all(|&byte| byte == 0) {
                    return Err(Stop::Damaged("key \"general.alignment\"".into(), "is 0".into()));
                }
            }
        }
        for _ in 0..tensors {
            let name = String::from_utf8_lossy(self.string()?).into_owned();
            let dims = self.u32()?;
            if !(1..=4).contains(&dims) {
                return Err(Stop::Damaged(format!("tensor {name:?}"), format!("{dims} dimensions")));
            }
            let mut elements = 1u64;
            for _ in 0..dims {
                let dim = self.u64()?;
                elements = elements
                    .checked_mul(dim)
                    .filter(|&n| n > 0 && n <= 1 << 40)
                    .ok_or_else(|| Stop::Damaged(format!("tensor {name:?}"), "a dimension is 0 or too large".into()))?;
            }
            self.u32()?;
            self.u64()?;
        }
        Ok(())
    }

    fn value(&mut self, key: &str, kind: u32, depth: u32) -> std::result::Result<(), Stop> {
        let width = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => {
                self.string()?;
                return Ok(());
            }
            9 => {
                if depth > 1 {
                    return Err(Stop::Damaged(format!("key {key:?}"), "arrays nested too deep".into()));
                }
                let kind = self.u32()?;
                let count = self.u64()?;
                if count > MAX_HEADER as u64 {
                    return Err(Stop::Damaged(format!("key {key:?}"), format!("an array of {count} items")));
                }
                for _ in 0..count {
                    self.value(key, kind, depth + 1)?;
                }
                return Ok(());
            }
            _ => return Err(Stop::Damaged(format!("key {key:?}"), format!("value type {kind}"))),
        };
        self.take(width)?;
        Ok(())
    }
}
