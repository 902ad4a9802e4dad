// Names of devices, both ways.
#include "core/device.h"

#include "core/error.h"

namespace edfcore {

std::string device_name(Device device) {
  if (device.type == DeviceType::cpu) return "cpu";
  return "cuda:" + std::to_string(device.index);
}

Device parse_device(const std::string& name) {
  if (name == "cpu") return cpu_device;
  if (name == "cuda") return {DeviceType::cuda, 0};
  const std::string prefix = "cuda:";
  if (name.starts_with(prefix)) {
    const std::string digits = name.substr(prefix.size());
    if (!digits.empty() && digits.size() <= 2 && digits.find_first_not_of("0123456789") == std::string::npos)
      return {DeviceType::cuda, static_cast<std::int8_t>(std::stoi(digits))};
  }
  fail(ErrorKind::device, "no device is called '", name, "': use \"cpu\", \"cuda\" or \"cuda:0\".");
}

}  // namespace edfcore
