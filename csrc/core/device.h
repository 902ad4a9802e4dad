// Where memory lives: a device type and its index.
#pragma once

#include <cstdint>
#include <string>

namespace edfcore {

enum class DeviceType : std::uint8_t { cpu, cuda };

struct Device {
  DeviceType type = DeviceType::cpu;
  std::int8_t index = 0;
  friend bool operator==(Device, Device) = default;
};

inline constexpr Device cpu_device{};

// "cpu", "cuda:0".
std::string device_name(Device device);
// The reverse; "cuda" is "cuda:0". Throws a device error for anything else.
Device parse_device(const std::string& name);

}  // namespace edfcore
