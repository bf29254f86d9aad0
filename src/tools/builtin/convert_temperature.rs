//! `convert_temperature`: between Celsius, Fahrenheit and Kelvin.

use super::{Builtin, Kit, Reach};
use crate::tools::{Invocation, ToolFailure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// See the module's head.
pub struct ConvertTemperature;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The temperature.
    value: f64,
    /// Its unit. Default C.
    #[serde(default = "celsius")]
    from: Unit,
    /// The unit that is wanted. Default F.
    #[serde(default = "fahrenheit")]
    to: Unit,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Unit {
    C,
    F,
    K,
}

fn celsius() -> Unit {
    Unit::C
}

fn fahrenheit() -> Unit {
    Unit::F
}

#[derive(Serialize, JsonSchema)]
pub struct Output {
    value: f64,
    unit: Unit,
    original_value: f64,
    original_unit: Unit,
}

impl Builtin for ConvertTemperature {
    const NAME: &'static str = "convert_temperature";
    const DESCRIPTION: &'static str = "Converts a temperature between Celsius (C), Fahrenheit (F) and Kelvin (K).";
    const REACH: Reach = Reach::Nothing;
    const TIMEOUT: f64 = 1.0;
    type Input = Input;
    type Output = Output;

    fn new(_: &Kit) -> Self {
        Self
    }

    async fn run<'a>(&'a self, Input { value, from, to }: Input, _: Invocation<'a>) -> Result<Output, ToolFailure> {
        let kelvin = match from {
            Unit::C => value + 273.15,
            Unit::F => (value + 459.67) * 5.0 / 9.0,
            Unit::K => value,
        };
        if kelvin < -1e-9 || !kelvin.is_finite() {
            return Err(ToolFailure::new(
                "there is no such temperature: nothing is colder than 0 K = -273.15 C = -459.67 F",
            )
            .with_code("below_absolute_zero"));
        }
        let converted = match to {
            unit if unit == from => value,
            Unit::C => kelvin - 273.15,
            Unit::F => kelvin * 9.0 / 5.0 - 459.67,
            Unit::K => kelvin,
        };
        // To a millionth: what the arithmetic adds below that is no temperature.
        let rounded = (converted * 1e6).round() / 1e6;
        let value_there = if rounded.is_finite() { rounded } else { converted };
        Ok(Output { value: value_there, unit: to, original_value: value, original_unit: from })
    }
}
